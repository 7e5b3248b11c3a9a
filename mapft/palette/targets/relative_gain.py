"""Relative gain kappa: c_i = E r_i + log(1 + kappa) for log-probabilities, (1 + kappa) E r_i for probabilities."""

import math

from mapft.palette.matrix import ScoreMatrix
from mapft.palette.targets.kind import TargetKind
from mapft.utils.errors import UserError


def _of_log_probability(matrix: ScoreMatrix, value: str, gain: float) -> float:
    return matrix.base[value] + math.log1p(_above_minus_one(value, gain))


def _of_probability(matrix: ScoreMatrix, value: str, gain: float) -> float:
    low, high = matrix.column(value).min(), matrix.column(value).max()
    if low < 0 or high > 1:
        raise UserError(
            f"the scores of value {value!r} are between {low:g} and {high:g}, so they are not probabilities: use "
            "relative_gain or sd."
        )
    return min(1.0, (1 + _above_minus_one(value, gain)) * matrix.base[value])


def _above_minus_one(value: str, gain: float) -> float:
    if gain <= -1:
        raise UserError(f"the relative gain {gain} of value {value!r} is not above -1: write 10 % more as 0.1.")
    return gain


RELATIVE_GAIN = TargetKind(
    _of_log_probability, help="Relative gain of a log-probability score; 0.1 is 10 % more.", score_unit="nats"
)
RELATIVE_GAIN_PROBABILITY = TargetKind(
    _of_probability, help="Relative gain of a probability score; 0.1 is 10 % more.", score_unit="probability"
)
