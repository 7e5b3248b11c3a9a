"""What the trainer logs (`mapft metrics` explains every name).

Shapes: B responses of this process, N of all processes, T response tokens, F reward functions.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from mapft.ppo.estimation import deviations, effective_share, log_mean_exp
from mapft.ppo.generation import Texts
from mapft.ppo.trl_seam import TRLSeam
from mapft.utils.errors import UserError


@contextmanager
def timed(trainer: TRLSeam, name: str) -> Iterator[None]:
    """Log the seconds that the block took as timing/{name}."""
    begin = time.perf_counter()
    yield
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.synchronize()  # otherwise the next block would pay for what this one has queued
    trainer.metrics[f"timing/{name}"].append(time.perf_counter() - begin)


def log_rewards(trainer: TRLSeam, rewards_NF: Tensor, texts: Texts) -> None:
    """Rewards by function, texts, and what reward functions gave to `log_metric` and `log_extra`.

    Raises UserError for a reward that is missing or not finite.
    """
    metrics, columns = trainer.metrics, trainer.rollout_columns
    for name, rewards_N in zip(trainer.reward_func_names, rewards_NF.T, strict=True):
        invalid = (~rewards_N.isfinite()).nonzero()
        if len(invalid):
            row = invalid[0, 0].item()
            raise UserError(
                f"The reward function {name!r} returned {rewards_N[row].item()} for response {row}; "
                "missing rewards are not replaced, so return a finite number for every response."
            )
        metrics[f"rewards/{name}/mean"].extend(rewards_N.tolist())
        metrics[f"rewards/{name}/std"].append(rewards_N.std(correction=0).item())
        columns["rewards"][name].extend(rewards_N.tolist())
    for key in ("prompt", "completion"):
        columns[key].extend(gather_object(texts[f"{key}s"]))
    function_metrics, function_columns = trainer.take_function_metrics()
    for name, numbers in function_metrics.items():
        metrics[name].append(sum(numbers) / len(numbers))
    for name, column in function_columns.items():
        columns["extra"][name].extend(column)


def log_objective(trainer: Any, score_B: Tensor, kl_BT: Tensor, logp_BT: Tensor, value_B: Tensor) -> None:
    """Sums over the tokens of a response, averaged over the responses of all processes, under TRL PPO's names.

    value_B: the critic's V(x). At the optimum the return R - kl_coef * log pi/p0 of every response is
    kl_coef * log Z(x); its difference from V(x), divided by kl_coef, is a log-weight, and objective/ess is the
    effective share of those weights. With K >= 2 responses u_k to a prompt, u = (R - kl_coef log pi/p0) / kl_coef,
    objective/kl_to_target estimates KL(pi || p_opt) = E_x log E_y exp(u) - E u by the `centered` estimator.
    """
    kl_coef, metrics = trainer.args.kl_coef, trainer.metrics
    kl_B = kl_BT.sum(1)
    columns = {
        "objective/kl": kl_B,
        "objective/entropy": -logp_BT.sum(1),
        "objective/non_score_reward": -kl_coef * kl_B,
        "objective/scores": score_B,
        "objective/rlhf_reward": score_B - kl_coef * kl_B,
    }
    for name, column_B in columns.items():
        metrics[name].extend(trainer.accelerator.gather(column_B).tolist())
    args = trainer.args
    group = args.num_generations if trainer.model.training else args.num_generations_eval
    if group > 1 and min(gather_object([len(score_B) % group == 0])):
        reward_BK = columns["objective/rlhf_reward"].view(-1, group)
        deviation_N = trainer.accelerator.gather(deviations(reward_BK / kl_coef).flatten())
        metrics["objective/kl_to_target"].append(log_mean_exp(deviation_N))
    log_weights_N = trainer.accelerator.gather((columns["objective/rlhf_reward"] - value_B) / kl_coef)
    metrics["objective/ess"].append(effective_share(log_weights_N))


def log_update(trainer: TRLSeam, loss: Tensor, sums: Tensor) -> None:
    """Means over the tokens of a micro-batch of all processes.

    sums: of `policy_loss`, followed by the sum of entropies, over the tokens of all processes.
    """
    tokens, *totals = sums.tolist()
    clipped, half_square, ratio, ratio_square, entropy = (total / tokens for total in totals)
    for name, number in {
        "loss/policy_avg": trainer.accelerator.reduce(loss.detach(), reduction="mean").item(),
        "policy/clipfrac_avg": clipped,
        "policy/approxkl_avg": half_square,
        "policy/entropy_avg": entropy,
        "val/ratio": ratio,
        "val/ratio_var": max(ratio_square - ratio**2, 0.0),
    }.items():
        trainer.metrics[name].append(number)
