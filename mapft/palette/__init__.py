"""The palette mathematics of MAP: score matrix, palette, dual, feasibility, adjusting (numpy and scipy only)."""

from mapft.palette.adjust import Adjustment, adjust
from mapft.palette.dual import solve_dual, solve_many
from mapft.palette.feasibility import Certificate
from mapft.palette.matrix import RewardMatrix
from mapft.palette.palette import Palette
from mapft.palette.partition import ESTIMATORS, Estimator
from mapft.palette.solution import DualSolution, Status

__all__ = [
    "ESTIMATORS",
    "Adjustment",
    "Certificate",
    "DualSolution",
    "Estimator",
    "Palette",
    "RewardMatrix",
    "Status",
    "adjust",
    "solve_dual",
    "solve_many",
]
