"""From a score matrix and a palette to lambda: the public entry points (method sections 1-3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mapft.palette.estimators import Estimator, choose_estimator
from mapft.palette.matrix import RewardMatrix
from mapft.palette.palette import Palette
from mapft.palette.problem import Problem
from mapft.palette.solution import DualSolution, Status


def solve_dual(
    matrix: RewardMatrix,
    palette: Palette,
    *,
    estimator: Estimator | None = None,
    start: Mapping[str, float] | None = None,
) -> DualSolution:
    """lam* = argmax_{lam >= 0} lam.c - E_x log Z(x, lam): the least-KL policy p0 exp(lam.r) / Z that keeps the palette.

    estimator: of E_x log Z, with z = r: `pooled` log mean_N exp(lam.z); `per_prompt` mean over prompts of
    log mean_K exp(lam.z); `centered` lam.mean(z) + log mean_N exp(lam.d), d = (z - prompt mean) sqrt(K / (K - 1)).
    Default: centered when every prompt has two samples or more, else pooled with a warning.
    start: multipliers (raw units) of every value from which to start, used where they beat 0.

    Values that the palette does not name are free: lam exactly 0, level still reported. An unattainable palette is a
    result, not an error: look at `status`. Raises UserError when the palette names a value that the matrix lacks, or
    the estimator needs more samples per prompt. Source: method sections 1-3.
    """
    return Problem(matrix, choose_estimator(matrix, estimator)).solve(palette.targets, start)


def solve_many(
    matrix: RewardMatrix, palettes: Sequence[Palette], *, estimator: Estimator | None = None
) -> list[DualSolution]:
    """`solve_dual` for many palettes on one matrix; each starts from its predecessor and shares its linear programs."""
    problem = Problem(matrix, choose_estimator(matrix, estimator))
    solutions: list[DualSolution] = []
    start: Mapping[str, float] | None = None
    for palette in palettes:
        solutions.append(problem.solve(palette.targets, start))
        start = solutions[-1].lam if solutions[-1].status is Status.optimal else start
    return solutions
