"""PPO for language models on TRL 1.16, whose optimum is p0(y|x) exp(R(x,y)/kl_coef) / Z(x).

    from mapft.ppo import PPOConfig, PPOTrainer

The trainer has the constructor of TRL's other trainers and takes any TRL reward functions. README.md in this folder
describes the package.
"""

from mapft.ppo.ppo_config import PPOConfig
from mapft.ppo.ppo_trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]
