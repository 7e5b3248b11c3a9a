"""PPO for language models on TRL 1.16, whose optimum is p0(y|x) exp(R(x,y)/kl_coef) / Z(x).

    from mapft.ppo import PPOConfig, PPOTrainer

The trainer has the constructor of TRL's other trainers and takes any TRL reward functions; it needs nothing else of
mapft. The pieces are pure functions: `estimation` (rewards per token, advantages), `loss`; `critic` is a small head
on the hidden states of the reference pass; `trainer` puts them together.
"""

from mapft.ppo.config import PPOConfig
from mapft.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]
