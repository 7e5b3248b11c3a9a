"""Responses of a policy from an engine whose distribution is another one.

An engine rounds differently from the passes that training makes, so its distribution mu is not the policy pi. A
proposal y ~ mu is accepted with probability min(1, w/C), w = pi(y|x)/mu(y|x), and proposed anew until one is accepted.
Accepted responses have the distribution

    q(y|x) = min(pi, C mu)(y|x) / (1 - m(x)),    m(x) = E_pi[(1 - C/w)+], the lost mass,

which is pi itself where w <= C for all y. Else q/pi <= 1/(1 - m), so for every score r, over all prompts

    |E_q r - E_pi r| <= sd_pi(r) sqrt(E_x chi2(q||pi)) <= sd_pi(r) sqrt(E_x o(x)),    o = m/(1 - m).

Where mu > 0 wherever pi > 0, o = E_q[(w/C - 1)+], which accepted responses measure; and E_mu w = 1, which all proposals
test. Log-probabilities are the policy's own, never the engine's: with the engine's in the KL, the optimum would be
mu exp(lam.r)/Z.

Legend: N responses.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from mapft.config import EngineConfig
from mapft.sampling.engines.engine import Engine, Proposal
from mapft.utils.errors import UserError
from mapft.utils.seeds import derive_seed

ROUNDS = 50  # times max_ratio: the most proposals for a response; with no lost mass, e^-50 of them need more
FEW, COPIES = 1 / 16, 4  # where this share of the prompts has no response yet, proposals at a time for each of them
LEAST_RESPONSES = 256  # responses or proposals from which an engine is judged
WINDOW = 4096  # the newest responses, by which the bound is judged
WRONG_MODEL = "check that the servers of engine.urls have the model of model.path."

# Of prompts and responses: (logp (N,) under the policy, what the caller wants to keep of each response (N,))
Pass = Callable[[list[list[int]], list[list[int]]], tuple[Sequence[float], Sequence[Any]]]


@dataclass(frozen=True)
class Accepted:
    """A response of the policy. log_ratio: log pi/mu in nats; kept: what the policy's pass gave for it."""

    ids: list[int]
    log_ratio: float
    kept: Any


class RejectionSampler:
    """Responses of the policy from an engine. settings: `max_ratio` is C.

    log_ratios: log pi/mu of the newest responses, in nats. proposed: n, sum of w and sum of w^2 of all proposals.
    """

    def __init__(self, engine: Engine, settings: EngineConfig) -> None:
        self.engine, self.settings = engine, settings
        self.log_ratios: deque[float] = deque(maxlen=WINDOW)
        self.proposed = np.zeros(3)

    def sample(
        self, policy: Pass, prompts: Sequence[list[int]], *, eos_ids: Sequence[int], max_new_tokens: int, seed: int
    ) -> list[Accepted]:
        """One response to every prompt.

        UserError where a prompt has none after ROUNDS * C proposals, or a response ends in another way.
        """
        accepted: dict[int, Accepted] = {}
        for number in range(math.ceil(ROUNDS * self.settings.max_ratio)):
            pending = [row for row in range(len(prompts)) if row not in accepted]
            if not pending:
                return [accepted[row] for row in range(len(prompts))]
            copies = COPIES if len(pending) <= FEW * len(prompts) else 1
            rows = [row for row in pending for _ in range(copies)]
            seeds = [derive_seed(seed, "proposal", number, place) % 2**31 for place in range(len(rows))]
            proposals = self.engine.propose([prompts[row] for row in rows], seeds, eos_ids, max_new_tokens)
            check_ends(proposals, eos_ids, max_new_tokens)
            logp_N, kept_N = policy([prompts[row] for row in rows], [proposal.ids for proposal in proposals])
            uniform_N = np.random.default_rng(derive_seed(seed, "accept", number)).random(len(rows))
            for row, proposal, logp, kept, uniform in zip(rows, proposals, logp_N, kept_N, uniform_N, strict=True):
                log_ratio = logp - proposal.logp
                w = math.exp(min(log_ratio, 300.0))
                self.proposed += (1, w, w**2)
                if uniform * self.settings.max_ratio <= w:
                    accepted.setdefault(row, Accepted(proposal.ids, log_ratio, kept))
        raise UserError(
            f"No response to {len(pending)} of {len(prompts)} prompts was accepted in {number + 1} rounds, so the "
            f"engine's distribution is far from the policy's; {WRONG_MODEL}"
        )

    def judge(self, log_ratios: Sequence[float]) -> None:
        """Add those of responses, of all processes, to log_ratios. UserError where the bound is too large.

        Also where E_mu w, the policy's mass of what the engine can propose, is 5 standard errors below 1.
        """
        self.log_ratios.extend(log_ratios)
        check_bound(self.log_ratios, self.settings)
        count, total, squares = self.proposed
        if count < LEAST_RESPONSES:
            return
        mean = total / count
        missing = 1 - mean - 5 * math.sqrt(max(0.0, squares / count - mean**2) / count)
        if missing > self.settings.max_level_bound**2:
            raise UserError(
                f"The engine never proposes responses that are {missing:.0%} or more of the policy's; start its "
                f"servers without sampling settings of their own (vLLM: --generation-config vllm), and {WRONG_MODEL}"
            )


def check_ends(proposals: Sequence[Proposal], eos_ids: Sequence[int], max_new_tokens: int) -> None:
    """UserError for a response that ends neither with its first EOS token nor after max_new_tokens."""
    for ids in (proposal.ids for proposal in proposals):
        complete = bool(ids) and (ids[-1] in eos_ids or len(ids) == max_new_tokens)
        if not complete or any(token in eos_ids for token in ids[:-1]):
            raise UserError(
                f"The engine returned a response of {len(ids)} tokens that ends neither with the first EOS token "
                f"({', '.join(map(str, eos_ids))}) nor after {max_new_tokens} tokens; start its servers without "
                "limits and stop words of their own."
            )


@dataclass(frozen=True)
class Mismatch:
    """How far the engine's distribution mu is from the policy pi, from responses of pi; means over responses.

    kl: KL(pi||mu) in nats. chi2: E_mu w^2 - 1 = E_pi w - 1. ess: 1 / (1 + chi2), the effective share of the engine's
    responses under weights w. lost_mass: m. level_bound: sqrt(E o) with an upper limit of E o: the estimated bound on
    the error of the level of every score, in units of its sd under the policy.
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
    return max(0.0, float(np.exp(min(sd**2, 700.0)) / max_ratio * ndtr(above + sd) - ndtr(above)))


def check_bound(log_ratio_N: Sequence[float], settings: EngineConfig) -> None:
    """UserError where the bound, from LEAST_RESPONSES or more, is above engine.max_level_bound."""
    if len(log_ratio_N) < LEAST_RESPONSES:
        return
    bound = mismatch(log_ratio_N, settings.max_ratio).level_bound
    if not bound <= settings.max_level_bound:
        raise UserError(
            f"The engine's distribution differs so much from the policy's that a level can be off by {bound:.3f} sd, "
            f"above engine.max_level_bound={settings.max_level_bound:g}; {_remedy(log_ratio_N, settings)}."
        )


def _remedy(log_ratio_N: Sequence[float], settings: EngineConfig) -> str:
    """Names the least max_ratio, in steps of 10 %, whose bound on these responses is half of engine.max_level_bound."""
    ratio = settings.max_ratio
    while ratio < 100 and not mismatch(log_ratio_N, ratio).level_bound <= settings.max_level_bound / 2:
        ratio *= 1.1
    precision = "run the servers in the precision of the policy"
    if ratio >= 100:
        return f"{precision}, and {WRONG_MODEL[:-1]}"
    return (
        f"set engine.max_ratio={math.ceil(10 * ratio) / 10:g} (this begins a new run, with about as many proposals per "
        f"response), {precision}, or raise engine.max_level_bound to continue this run"
    )
