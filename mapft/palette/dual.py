"""From a score matrix and a palette to lambda."""

from __future__ import annotations

from mapft.palette.estimators import Estimator, choose_estimator
from mapft.palette.matrix import ScoreMatrix
from mapft.palette.palette import Palette
from mapft.palette.problem import Problem
from mapft.palette.solution import DualSolution


def solve_dual(matrix: ScoreMatrix, palette: Palette, *, estimator: Estimator | None = None) -> DualSolution:
    """lam* = argmax_{lam >= 0} lam.c - E_x log Z(x, lam): p0 exp(lam*.r) / Z meets the palette at the least KL from p0.

    estimator: of E_x log Z, with z = r: `pooled` log mean_N exp(lam.z); `per_prompt` mean over prompts of
    log mean_K exp(lam.z); `centered` lam.mean(z) + log mean_N exp(lam.d), d = (z - prompt mean) sqrt(K / (K - 1)).
    Default: centered if every prompt has two samples or more, else pooled with a warning.

    Values that the palette does not name are free: their lam is exactly 0, and their level is still predicted. An
    infeasible palette is a result, not an error: see `status`. Raises UserError when the palette names a value that the
    matrix lacks, or the estimator needs more samples per prompt.
    Source: paper, theorem 1 and algorithm 1; mapft/palette/README.md, "Problem and dual".
    """
    return Problem(matrix, choose_estimator(matrix, estimator)).solve(palette.targets)
