"""The palette: the target of each human value, stated in any kind of `targets`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mapft.palette.matrix import ScoreMatrix
from mapft.palette.targets import TARGETS
from mapft.utils.errors import UserError


@dataclass(frozen=True)
class Palette:
    """Targets c: the constraint of MAP is E_{x, y~p} r_i(x, y) >= c_i for every named value i.

    targets: value name -> c_i, in the unit of that value's raw score. Values of the score matrix that are not named are
    free: their multiplier is exactly 0. Raises UserError for an empty palette or a target that is not a finite number.
    Source: paper, equation 3.
    """

    targets: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.targets:
            raise UserError("the palette names no value: give at least one target, for example {'humor': 2.5}.")
        checked = {name: _finite(name, target, "target") for name, target in self.targets.items()}
        object.__setattr__(self, "targets", MappingProxyType(checked))

    def __reduce__(self) -> tuple[type[Palette], tuple[dict[str, float]]]:
        return Palette, (dict(self.targets),)

    @classmethod
    def of(cls, matrix: ScoreMatrix, **kinds: Mapping[str, float]) -> Palette:
        """Targets computed from the base scores, each in one kind of TARGETS.

            Palette.of(matrix, quantiles={"humor": 0.8}, sd={"harmless": 0.3})

        Raises UserError for an unknown kind, a value that the matrix lacks, or a number that is invalid for its kind.
        """
        targets: dict[str, float] = {}
        for kind, numbers in kinds.items():
            if kind not in TARGETS:
                raise UserError(f"the kind of target {kind!r} is unknown: use one of {', '.join(TARGETS)}.")
            matrix.index(list(numbers))
            for value, number in numbers.items():
                targets[value] = TARGETS[kind].target(matrix, value, _finite(value, number, kind))
        return cls(targets)


def _finite(name: str, number: float, label: str) -> float:
    if not isinstance(name, str):
        raise UserError(
            f"the key {name!r} of the palette is not the name of a value; write for example {{'humor': 2.5}}."
        )
    try:
        converted = float(number)
    except (TypeError, ValueError):
        converted = math.nan
    if isinstance(number, bool) or not math.isfinite(converted):
        raise UserError(f"the {label} of value {name!r} is {number!r}: give a finite number.")
    return converted
