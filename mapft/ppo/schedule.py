"""How long a training is, in iterations: one rollout and the optimizer steps on it."""

import copy
import math

from mapft.ppo.ppo_config import PPOConfig


def in_whole_iterations(args: PPOConfig, prompts: int) -> PPOConfig:
    """A copy of args whose max_steps, save_steps and eval_steps are multiples of steps_per_iteration.

    prompts: in the training dataset. Checkpoints fall between iterations, where there is no rollout to save;
    evaluations too, because the best model so far is saved where it is evaluated.
    """
    args = copy.copy(args)
    steps = args.steps_per_iteration
    episodes = args.total_episodes or math.ceil(args.num_train_epochs * prompts * args.num_generations)
    if args.max_steps > 0:
        episodes = math.ceil(args.max_steps / steps) * args.generation_batch_size
    args.max_steps = math.ceil(episodes / args.generation_batch_size) * steps
    args.save_steps = _rounded_up(args.save_steps, args.max_steps, steps)
    if args.eval_steps:
        args.eval_steps = _rounded_up(args.eval_steps, args.max_steps, steps)
    return args


def _rounded_up(every: float, max_steps: int, steps: int) -> int:
    """To a multiple of `steps`; transformers reads a number below 1 as a share of max_steps."""
    return math.ceil((every if every >= 1 else every * max_steps) / steps) * steps
