"""Fine-tuning towards p_lam: what is trained, in which order, against which reference.

`fit` is one PPO run from a reference to a tilt of it; `simultaneous` is one fit, `sequential` one fit per stage;
`refinement` is the multipliers while they train, `reward` what a response earns under them.
"""
