"""The description of a kind of target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mapft.palette.matrix import ScoreMatrix


@dataclass(frozen=True)
class TargetKind:
    """A kind of target: how a number becomes c_i.

    target(matrix, value, number): c_i in the unit of the value's score; raises UserError for an invalid number.
    help, unit: of the number, for `mapft settings`. score_unit: required prefix of the score's unit; "" for any score.
    """

    target: Callable[[ScoreMatrix, str, float], float]
    help: str
    unit: str = ""
    score_unit: str = ""
