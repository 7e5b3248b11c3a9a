"""Fine-tuning towards p_lam: what is trained, in which order, against which reference."""
