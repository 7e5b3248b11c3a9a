"""The palette mathematics of MAP, on numpy, scipy and HiGHS only. README.md in this folder is the method page.

matrix, score_files     scores of base samples, one column per human value, and their files
palette, targets        the target of each value, and the kinds in which it can be stated
partition, estimators   estimates of E_x log Z from samples, with derivatives
newton                  projected Newton's method for the dual
feasibility, program    feasible levels and certificates; their linear programs
problem, dual           both together: from a score matrix and a palette to lambda
on_policy               lambda from rollouts of the policy in training
adjust, nearest         the nearest feasible palette
analysis, precision, uncertainty, explain   prices, sensitivities, standard errors, intervals, text and tables
frontier, limits        Pareto fronts, feasible regions, the largest level of each value
"""

from mapft.palette.adjust import Adjustment, adjust
from mapft.palette.analysis import Analysis, analyse
from mapft.palette.dual import solve_dual
from mapft.palette.estimators import ESTIMATORS, Estimator
from mapft.palette.explain import adjustment_table, explain, solution_table
from mapft.palette.feasibility import Certificate
from mapft.palette.frontier import Front, at_kl, feasible_region, pareto_front
from mapft.palette.limits import largest_levels
from mapft.palette.matrix import ScoreMatrix
from mapft.palette.on_policy import Increment, OnPolicyEstimate, estimate, increment
from mapft.palette.palette import Palette
from mapft.palette.precision import StandardErrors, standard_errors
from mapft.palette.solution import DualSolution, Status
from mapft.palette.uncertainty import Interval, Uncertainty, bootstrap

__all__ = [
    "ESTIMATORS",
    "Adjustment",
    "Analysis",
    "Certificate",
    "DualSolution",
    "Estimator",
    "Front",
    "Increment",
    "Interval",
    "OnPolicyEstimate",
    "Palette",
    "ScoreMatrix",
    "StandardErrors",
    "Status",
    "Uncertainty",
    "adjust",
    "adjustment_table",
    "analyse",
    "at_kl",
    "bootstrap",
    "estimate",
    "explain",
    "feasible_region",
    "increment",
    "largest_levels",
    "pareto_front",
    "solution_table",
    "solve_dual",
    "standard_errors",
]
