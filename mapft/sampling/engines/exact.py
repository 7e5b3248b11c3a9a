"""Exact responses of a policy from an engine whose law is another one.

An engine rounds otherwise than the passes that training makes, so its law mu is not the policy pi. A proposal y ~ mu is
accepted with probability min(1, w/C), w = pi(y|x)/mu(y|x), and proposed anew until one is accepted. Accepted responses
have the law

    q(y|x) = min(pi, C mu)(y|x) / (1 - m(x)),    m(x) = E_pi[(1 - C/w)+], the lost mass,

which is pi itself where w <= C for all y. Else q/pi <= 1/(1 - m), so for every score r, over all prompts

    |E_q r - E_pi r| <= sd(r) sqrt(E_x chi2(q||pi)) <= sd(r) sqrt(E_x o(x)),    o = m/(1 - m) = E_q[(w/C - 1)+].

Everything that follows receives responses of pi, and needs no weights. Log-probabilities are the policy's own, never
the engine's: with the engine's in the KL, the optimum would be mu exp(lam.r)/Z.

Legend: N responses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from mapft.config import EngineConfig
from mapft.sampling.engines.engine import Engine
from mapft.utils.errors import UserError
from mapft.utils.seeds import derive_seed

MAX_ROUNDS = 1000  # proposals for a response
LEAST_RESPONSES = 256  # from which the bound is judged

# Of prompts and responses: (logp (N,) under the policy, what the caller wants to keep of each response (N,))
Pass = Callable[[list[list[int]], list[list[int]]], tuple[Sequence[float], Sequence[Any]]]


@dataclass(frozen=True)
class Accepted:
    """A response of the policy. log_ratio: log pi/mu in nats; kept: what the policy's pass gave for it."""

    ids: list[int]
    log_ratio: float
    kept: Any


def exact_responses(
    engine: Engine,
    policy: Pass,
    prompts: Sequence[list[int]],
    *,
    max_ratio: float,
    eos_ids: Sequence[int],
    max_new_tokens: int,
    seed: int,
) -> list[Accepted]:
    """One response to every prompt. UserError after MAX_ROUNDS proposals for one of them."""
    accepted: dict[int, Accepted] = {}
    for number in range(MAX_ROUNDS):
        rows = [row for row in range(len(prompts)) if row not in accepted]
        if not rows:
            return [accepted[row] for row in range(len(prompts))]
        pending = [prompts[row] for row in rows]
        seeds = [derive_seed(seed, "engine", number, row) % 2**31 for row in rows]
        proposals = engine.propose(pending, seeds, eos_ids, max_new_tokens)
        logp, kept = policy(pending, [proposal.ids for proposal in proposals])
        uniform = np.random.default_rng(derive_seed(seed, "accept", number)).random(len(rows))
        for row, proposal, logp_own, keep, u in zip(rows, proposals, logp, kept, uniform, strict=True):
            log_ratio = logp_own - proposal.logp
            if math.log(u) <= log_ratio - math.log(max_ratio):
                accepted[row] = Accepted(proposal.ids, log_ratio, keep)
    raise UserError(
        f"The engine proposed {MAX_ROUNDS} responses to a prompt and none was accepted, so its law is far from the "
        "policy's; check that the servers of engine.urls have the model of model.path."
    )


class ExactEngine:
    """An engine whose responses are those of the policy. log_ratios: log pi/mu of all responses so far, in nats."""

    def __init__(self, engine: Engine, settings: EngineConfig) -> None:
        self.engine, self.settings = engine, settings
        self.log_ratios: list[float] = []

    def load(self, adapter: Path | None) -> None:
        """The policy from now on, see `Engine.load`."""
        self.engine.load(adapter)

    def sample(
        self, policy: Pass, prompts: Sequence[list[int]], *, eos_ids: Sequence[int], max_new_tokens: int, seed: int
    ) -> list[Accepted]:
        """One response to every prompt, see `exact_responses`. UserError where the bound is too large."""
        accepted = exact_responses(
            self.engine,
            policy,
            prompts,
            max_ratio=self.settings.max_ratio,
            eos_ids=eos_ids,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
        self.log_ratios += [response.log_ratio for response in accepted]
        check_bound(self.log_ratios, self.settings)
        return accepted


@dataclass(frozen=True)
class Mismatch:
    """How far the engine's law mu is from the policy pi, from responses of pi; means over responses.

    kl: KL(pi||mu) in nats. chi2: E_mu w^2 - 1 = E_pi w - 1. ess: 1 / (1 + chi2), the effective share of the engine's
    responses under weights w. lost_mass: m. level_bound: sqrt(E o), the bound on the error of every level, in sd, with
    an upper limit of E o.
    """

    kl: float
    chi2: float
    ess: float
    lost_mass: float
    level_bound: float

    @property
    def metrics(self) -> dict[str, float]:
        """By the names of `mapft metrics`."""
        return {f"engine/{name}": value for name, value in vars(self).items()}


def mismatch(log_ratio_N: Sequence[float] | pd.Series, max_ratio: float) -> Mismatch:
    """Of accepted responses with these log-ratios log pi/mu.

    E_pi[1/w] = 1, so 1/w - 1 is added to log w and to w - 1: the sums are never negative and vary less. The limit of
    E o is two standard errors above its mean, and at least what a normal distribution of log w gives: few responses
    have none of the rare ratios above C.
    """
    log_ratio, w_N = np.asarray(log_ratio_N, dtype=float), np.exp(log_ratio_N)
    overshoot_N = np.maximum(w_N / max_ratio - 1, 0)
    overshoot, error = float(overshoot_N.mean()), float(overshoot_N.std() / len(overshoot_N) ** 0.5)
    limit = max(overshoot + 2 * error, normal_overshoot(float(log_ratio.std()), max_ratio))
    chi2 = float((w_N + 1 / w_N - 2).mean())
    return Mismatch(
        kl=float((log_ratio + 1 / w_N - 1).mean()),
        chi2=chi2,
        ess=1 / (1 + chi2),
        lost_mass=overshoot / (1 + overshoot),
        level_bound=math.sqrt(limit),
    )


def normal_overshoot(sd: float, max_ratio: float) -> float:
    """E_pi[(w/C - 1)+] where log w has a normal distribution with this sd; its mean under pi is sd^2/2."""
    if sd == 0:
        return 0.0
    above = (sd**2 / 2 - math.log(max_ratio)) / sd
    return max(0.0, float(math.exp(sd**2) / max_ratio * ndtr(above + sd) - ndtr(above)))


def check_bound(log_ratio_N: Sequence[float], settings: EngineConfig) -> None:
    """UserError where the bound, from LEAST_RESPONSES or more, is above engine.max_level_bound."""
    if len(log_ratio_N) < LEAST_RESPONSES:
        return
    bound = mismatch(log_ratio_N, settings.max_ratio).level_bound
    if bound > settings.max_level_bound:
        enough = _enough(log_ratio_N, settings.max_level_bound)
        raise UserError(
            f"The engine's law differs so much from the policy's that a level can be off by {bound:.3f} sd, above "
            f"engine.max_level_bound={settings.max_level_bound:g}; set engine.max_ratio={enough:.2g}, with which a "
            "response takes about as many samples, or run the servers in the precision of the policy."
        )


def _enough(log_ratio_N: Sequence[float], bound: float) -> float:
    """The least max_ratio, in steps of 10 %, whose bound on these responses is half of `bound`."""
    ratio = 1.1
    while mismatch(log_ratio_N, ratio).level_bound > bound / 2:
        ratio *= 1.1
    return ratio
