"""What the page shows of a palette, computed from a score matrix: the same mathematics as `mapft solve`.

Legend: N samples, V values, K candidates of one prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mapft.errors import UserError
from mapft.palette import (
    Adjustment,
    Analysis,
    DualSolution,
    Palette,
    RewardMatrix,
    Status,
    adjust,
    analyse,
    feasible_region,
    pareto_front,
    solve_dual,
)

UNITS = ("quantile", "sd", "absolute")  # as palettes name them
WAYS = {"interpolate": "all a little", "priority": "in order", "least_change": "least change"}
FRONT = 16  # points of a front


@dataclass(frozen=True)
class View:
    """One palette on one score matrix. analysis is None unless the palette is attainable."""

    solution: DualSolution
    analysis: Analysis | None

    @property
    def attainable(self) -> bool:
        """Whether there is a lambda."""
        return self.solution.status is Status.optimal


class Board:
    """A score matrix, and the texts that were scored where they are known."""

    def __init__(self, matrix: RewardMatrix, prompts: Sequence[str] = (), responses: Sequence[str] = ()) -> None:
        self.matrix, self.prompts, self.responses = matrix, list(prompts), list(responses)

    def palette(self, unit: str, positions: Mapping[str, float]) -> Palette:
        """Targets c_i from positions in a unit: quantiles of the base scores (never below their mean), base mean plus
        so many sd, or as they are.
        """
        if unit not in UNITS:
            raise UserError(f"unit={unit!r} is unknown; use one of {', '.join(UNITS)}.")
        if unit == "quantile":
            return Palette.from_quantiles(self.matrix, positions)
        return Palette.from_sd(self.matrix, positions) if unit == "sd" else Palette(dict(positions))

    def position(self, unit: str, value: str, level: float) -> float:
        """Where a level lies in a unit; the inverse of `palette`."""
        if unit == "quantile":
            return quantile_of(self._sorted[value], level)
        base, sd = self.matrix.base[value], self.matrix.sd[value]
        return level if unit == "absolute" else (level - base) / sd if sd > 0 else 0.0

    def span(self, unit: str, value: str) -> tuple[float, float]:
        """Least and greatest position that a slider offers: from the base level to the best base sample."""
        base, best = self.matrix.base[value], float(self.matrix.column(value).max())
        if unit == "quantile":
            return 0.0, 1.0
        return self.position(unit, value, base), max(self.position(unit, value, best), self.position(unit, value, base))

    def view(self, palette: Palette) -> View:
        """Solved, and analysed where it is attainable."""
        solution = solve_dual(self.matrix, palette)
        return View(solution, analyse(self.matrix, solution) if solution.status is Status.optimal else None)

    def nearest(self, palette: Palette, how: Any) -> Adjustment:
        """The nearest attainable palette; `priority` takes the values in their order."""
        return adjust(self.matrix, palette, how=how)

    def region(self, first: str, second: str) -> np.ndarray:
        """Corners (n, 2) of what is attainable for two values, all others free."""
        if (first, second) not in self._regions:
            self._regions[first, second] = feasible_region(self.matrix, first, second)
        return self._regions[first, second]

    def front(self, first: str, second: str, kl: float) -> np.ndarray:
        """Best levels (FRONT, 2) of two values within a KL, all others free."""
        return pareto_front(self.matrix, [first, second], FRONT, kl=kl).levels_nV

    def candidates(self, prompt_id: int, solution: DualSolution) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Responses to a prompt, their probability softmax(lam.r) among each other (K,), and their scores (K, V).

        Under the base policy each has 1/K.
        """
        rows = np.flatnonzero(self.matrix.prompt_ids == prompt_id)
        scores_KV = self.matrix.scores[rows]
        lam_V = np.array([solution.lam.get(name, 0.0) for name in self.matrix.values])
        logits_K = scores_KV @ lam_V
        weights_K = np.exp(logits_K - logits_K.max())
        return [self.responses[row] for row in rows], weights_K / weights_K.sum(), scores_KV

    @cached_property
    def questions(self) -> dict[int, str]:
        """The prompt of each id, where responses are known; no text where prompts are not."""
        if not self.responses:
            return {}
        ids = self.matrix.prompt_ids.tolist()
        return dict(zip(ids, self.prompts or [""] * len(ids), strict=True))

    @cached_property
    def _sorted(self) -> dict[str, np.ndarray]:
        return {name: np.sort(self.matrix.column(name)) for name in self.matrix.values}

    @cached_property
    def _regions(self) -> dict[tuple[str, str], np.ndarray]:
        return {}


def quantile_of(sorted_N: np.ndarray, level: float) -> float:
    """q with np.quantile(scores, q) = level: linear between neighbours in order, the greatest q where scores repeat."""
    rounding = 1e-12 * float(np.abs(sorted_N[[0, -1]]).max())
    last = int(np.searchsorted(sorted_N, level + rounding, side="right")) - 1
    if last < 0 or last + 1 == len(sorted_N):
        return float(last >= 0)
    step = sorted_N[last + 1] - sorted_N[last]
    return float(min(1.0, (last + max(level - sorted_N[last], 0.0) / step) / (len(sorted_N) - 1)))
