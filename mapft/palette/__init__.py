"""The palette mathematics of MAP: everything a user needs to know before spending GPU time (numpy and scipy only).

matrix, files     scores of base samples, one column per human value, and their files
palette           the level asked of each value
estimators        which samples and weights estimate E_x log Z; partition evaluates it and its derivatives
newton            projected Newton for the dual; feasibility: linear programs and certificates; problem joins them
dual, sequential, refinement   lambda for all values at once, one value at a time, or again on policy
adjust, nearest   the nearest attainable palette
analysis, precision, uncertainty, explain    what lambda means, and how far it can be trusted
frontier, dominance                          what can be had at all
"""

from mapft.palette.adjust import Adjustment, adjust
from mapft.palette.analysis import Analysis, analyse
from mapft.palette.dominance import hypervolume, non_dominated
from mapft.palette.dual import solve_dual, solve_many
from mapft.palette.estimators import ESTIMATORS, Estimator
from mapft.palette.explain import adjustment_table, adjustment_text, explain, table
from mapft.palette.feasibility import Certificate
from mapft.palette.frontier import Front, at_kl, feasible_region, pareto_front
from mapft.palette.matrix import RewardMatrix
from mapft.palette.palette import Palette
from mapft.palette.precision import SamplePlan, StandardErrors, required_samples, standard_errors
from mapft.palette.refinement import Refinement, refine
from mapft.palette.sequential import solve_sequential
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
    "Interval",
    "Palette",
    "Refinement",
    "RewardMatrix",
    "SamplePlan",
    "StandardErrors",
    "Status",
    "Uncertainty",
    "adjust",
    "adjustment_table",
    "adjustment_text",
    "analyse",
    "at_kl",
    "bootstrap",
    "explain",
    "feasible_region",
    "hypervolume",
    "non_dominated",
    "pareto_front",
    "refine",
    "required_samples",
    "solve_dual",
    "solve_many",
    "solve_sequential",
    "standard_errors",
    "table",
]
