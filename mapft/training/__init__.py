"""Fine-tuning towards p_lam.

`fit` is one PPO training with given multipliers; `refinement` adapts the multipliers while it runs; `reward` is the
reward of a response under them. `modes` has one file per training mode.
"""
