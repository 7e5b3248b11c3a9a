"""The numbers of the palette page, computed from a score matrix as in `mapft solve`.

Legend: N samples, V values, K candidates of one prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from mapft.palette import (
    Adjustment,
    Analysis,
    DualSolution,
    Palette,
    ScoreMatrix,
    Status,
    Uncertainty,
    adjust,
    analyse,
    bootstrap,
    feasible_region,
    largest_levels,
    pareto_front,
    solve_dual,
)
from mapft.utils.errors import UserError

UNITS = ("quantile", "sd", "absolute")  # of a level
FRONT_POINTS = 16
CONTOURS = (0.1, 0.5, 1.0, 2.0, 4.0)  # nats, of fronts that show how the cost grows
BOOTSTRAP_NUMBERS = 4e6  # scores that all resamples together read, for about a second
RESAMPLES = (50, 400)
REGION_TOLERANCE = 0.03  # sd, a few pixels
MAX_CACHED = 64  # views and regions
T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """The solution of one palette. analysis: None unless the palette is feasible."""

    solution: DualSolution
    analysis: Analysis | None

    @property
    def feasible(self) -> bool:
        """Whether the palette has a lambda."""
        return self.solution.status is Status.optimal


class Board:
    """A score matrix, with the texts that were scored where they are known."""

    def __init__(self, matrix: ScoreMatrix, prompts: Sequence[str] = (), responses: Sequence[str] = ()) -> None:
        self.matrix, self.prompts, self.responses = matrix, list(prompts), list(responses)
        self._views: dict[Any, View] = {}
        self._regions: dict[Any, np.ndarray] = {}
        self._contours: dict[Any, dict[float, np.ndarray]] = {}

    def palette(self, unit: str, positions: Mapping[str, float]) -> Palette:
        """The targets c_i at these positions: quantiles of the base scores (at least their mean), sd above the base
        level, or absolute levels.
        """
        if unit not in UNITS:
            raise UserError(f"unit={unit!r} is unknown; use one of {', '.join(UNITS)}.")
        if unit == "quantile":
            return Palette.of(self.matrix, quantiles=positions)
        return Palette.of(self.matrix, sd=positions) if unit == "sd" else Palette(dict(positions))

    def position(self, unit: str, value: str, level: float) -> float:
        """The position of a level in a unit; the inverse of `palette`."""
        if unit == "quantile":
            return quantile_of(self._sorted[value], level)
        base, sd = self.matrix.base[value], self.matrix.sd[value]
        return level if unit == "absolute" else (level - base) / sd if sd > 0 else 0.0

    def span(self, unit: str, value: str) -> tuple[float, float]:
        """The range of a slider: from the base level to the level of the best base sample."""
        base, best = self.matrix.base[value], float(self.matrix.column(value).max())
        if unit == "quantile":
            return 0.0, 1.0
        return self.position(unit, value, base), max(self.position(unit, value, best), self.position(unit, value, base))

    def view(self, palette: Palette) -> View:
        """Solve the palette, and analyse the solution of a feasible one."""

        def solved() -> View:
            solution = solve_dual(self.matrix, palette)
            return View(solution, analyse(self.matrix, solution) if solution.status is Status.optimal else None)

        return _cached(self._views, tuple(palette.targets.items()), solved)

    def kl(self, palette: Palette) -> float:
        """KL of the palette in nats; nan unless it is feasible."""
        return solve_dual(self.matrix, palette).kl

    def uncertainty(self, palette: Palette) -> Uncertainty:
        """Bootstrap intervals of a feasible palette, with fewer resamples for more samples."""
        fewest, most = RESAMPLES
        resamples = int(np.clip(BOOTSTRAP_NUMBERS // self.matrix.scores.size, fewest, most))
        return bootstrap(self.matrix, self.view(palette).solution, replications=resamples)

    def limits(self, palette: Palette) -> dict[str, float]:
        """The largest level of every value given the other targets; nan where these are infeasible."""
        return largest_levels(self.matrix, palette)

    def nearest(self, palette: Palette, method: Any) -> Adjustment:
        """The nearest feasible palette; `priority` keeps targets in the order of the values."""
        return adjust(self.matrix, palette, method=method)

    def region(self, first: str, second: str, targets: Mapping[str, float] | None = None) -> np.ndarray:
        """Corners (n, 2) of the feasible levels of two values.

        targets: of the other values, which must be feasible; without them, all others are free.
        """
        others = {name: target for name, target in (targets or {}).items() if name not in (first, second)}
        others_palette = Palette(others) if others else None

        def corners() -> np.ndarray:
            return feasible_region(self.matrix, first, second, others=others_palette, tolerance=REGION_TOLERANCE)

        return _cached(self._regions, (first, second, *others.items()), corners)

    def front(self, first: str, second: str, kl: float) -> np.ndarray:
        """Best levels (FRONT_POINTS, 2) of two values within a KL, all others free."""
        return pareto_front(self.matrix, [first, second], FRONT_POINTS, kl=kl).levels_nV

    def contours(self, first: str, second: str) -> dict[float, np.ndarray]:
        """The fronts of two values by their KL."""
        return _cached(self._contours, (first, second), lambda: {kl: self.front(first, second, kl) for kl in CONTOURS})

    def candidates(self, prompt_id: int, solution: DualSolution) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Responses to a prompt, softmax(lam.r) over them (K,), and their scores (K, V).

        The probabilities are those of p_lam among these responses; the base policy gives each 1/K.
        """
        rows = np.flatnonzero(self.matrix.prompt_ids == prompt_id)
        scores_KV = self.matrix.scores[rows]
        lam_V = np.array([solution.lam.get(name, 0.0) for name in self.matrix.values])
        logits_K = scores_KV @ lam_V
        weights_K = np.exp(logits_K - logits_K.max())
        return [self.responses[row] for row in rows], weights_K / weights_K.sum(), scores_KV

    @cached_property
    def prompt_texts(self) -> dict[int, str]:
        """Prompts by id where responses are known; empty texts where prompts are not."""
        if not self.responses:
            return {}
        ids = self.matrix.prompt_ids.tolist()
        return dict(zip(ids, self.prompts or [""] * len(ids), strict=True))

    @cached_property
    def _sorted(self) -> dict[str, np.ndarray]:
        return {name: np.sort(self.matrix.column(name)) for name in self.matrix.values}


def _cached(cache: dict[Any, T], key: Any, compute: Callable[[], T]) -> T:
    """cache[key], computed where it is missing; the cache holds MAX_CACHED results at most."""
    if (result := cache.get(key)) is None:  # not cache[key] after this: another thread may clear the cache
        if len(cache) >= MAX_CACHED:
            cache.clear()
        result = cache[key] = compute()
    return result


def quantile_of(sorted_N: np.ndarray, level: float) -> float:
    """The largest q with np.quantile(scores, q) = level; linear between neighbouring scores. sorted_N: ascending."""
    rounding = 1e-12 * float(np.abs(sorted_N[[0, -1]]).max())
    last = int(np.searchsorted(sorted_N, level + rounding, side="right")) - 1
    if last < 0 or last + 1 == len(sorted_N):
        return float(last >= 0)
    step = sorted_N[last + 1] - sorted_N[last]
    return float(min(1.0, (last + max(level - sorted_N[last], 0.0) / step) / (len(sorted_N) - 1)))
