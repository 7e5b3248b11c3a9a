"""How long a training is, in iterations: one rollout and the optimizer steps on it."""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch.optim.lr_scheduler import LambdaLR

from mapft.ppo.ppo_config import PPOConfig
from mapft.ppo.replay import Group, groups_per_part

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What a training has used after `iterations`, of which the first `warm_start` have no rollout.

    episodes: responses trained on. prompts: taken from the stream of prompts, each of which gets num_generations
    responses. Another number of processes has iterations of another size, and continues from here.
    """

    iterations: int
    warm_start: int
    episodes: int = 0
    prompts: int = 0

    def after(self, iterations: float, args: PPOConfig) -> "Progress":
        """After these iterations in total, the later ones with the sizes of args."""
        rollouts = max(0.0, iterations - max(self.iterations, self.warm_start))
        episodes = self.episodes + round(rollouts * args.generation_batch_size)
        prompts = self.prompts + round((iterations - self.iterations) * prompts_per_iteration(args))
        return Progress(int(iterations), self.warm_start, episodes, prompts)

    def max_steps(self, args: PPOConfig) -> int:
        """Optimizer steps in total until args.total_episodes are trained on, in whole iterations."""
        assert args.total_episodes is not None
        remaining = math.ceil(max(0, args.total_episodes - self.episodes) / args.generation_batch_size)
        return (max(self.iterations, self.warm_start) + remaining) * args.steps_per_iteration


def prompts_per_iteration(args: PPOConfig) -> int:
    """Prompts of all processes."""
    return args.generation_batch_size // args.num_generations


def in_whole_iterations(args: PPOConfig, prompts: int, warm_start: int = 0) -> PPOConfig:
    """A copy of args with total_episodes, whose max_steps, save_steps and eval_steps are multiples of
    steps_per_iteration.

    prompts: in the training dataset. warm_start: iterations without a rollout, before the others. Checkpoints fall
    between iterations, where there is no rollout to save; evaluations too, because the best model so far is saved where
    it is evaluated.
    """
    args = copy.copy(args)
    steps = args.steps_per_iteration
    if args.max_steps > 0:
        args.total_episodes = math.ceil(args.max_steps / steps) * args.generation_batch_size
    elif not args.total_episodes:
        args.total_episodes = math.ceil(args.num_train_epochs * prompts * args.num_generations)
    args.max_steps = Progress(0, warm_start).max_steps(args)
    args.save_steps = _rounded_up(args.save_steps, args.max_steps, steps)
    if args.eval_steps:
        args.eval_steps = _rounded_up(args.eval_steps, args.max_steps, steps)
    return args


def warm_start_iterations(args: PPOConfig, groups: Sequence[Group]) -> int:
    """Iterations that make warm_start_passes passes over the responses that the processes store.

    0 without replay, and, with a warning, where there are fewer stored prompts than processes.
    """
    if not (args.replay_batch and args.warm_start_passes):
        return 0
    if len(groups) < args.world_size:
        logger.warning(
            f"There is no warm start: warm_start_passes={args.warm_start_passes:g} needs two or more scored responses "
            f"to {args.world_size} prompts or more, and {len(groups)} prompts have them."
        )
        return 0
    share = min(math.ceil(len(groups) / args.world_size), groups_per_part(groups, args.replay_capacity))
    parts = math.ceil(share / groups_per_part(groups, args.replay_batch))
    return math.ceil(args.warm_start_passes * parts / args.steps_per_iteration)


def decay_first(schedule: LambdaLR, steps: int, start: float) -> None:
    """Let the rate fall to 0 in the first `steps` steps, and follow `schedule` after them.

    start: the first rate, as a multiple of the learning rate.

    Adam's steps are as long as the rate, however small the gradient is, so the regression on a fixed set of responses
    ends where its rate ends.
    """
    schedule.lr_lambdas = [partial(_decay_first, steps, start, factor) for factor in schedule.lr_lambdas]
    schedule._last_lr = [start * rate for rate in schedule.base_lrs]
    for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
        group["lr"] = rate


def _decay_first(steps: int, start: float, factor: Callable[[int], float], step: int) -> float:
    return start * (1 - step / steps) if step < steps else factor(step - steps)


def _rounded_up(every: float, max_steps: int, steps: int) -> int:
    """To a multiple of `steps`; transformers reads a number below 1 as a share of max_steps."""
    return math.ceil((every if every >= 1 else every * max_steps) / steps) * steps
