"""The palette: the level that the user asks of each human value, and the ways to state it (method section 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from mapft.errors import UserError
from mapft.palette.matrix import RewardMatrix


@dataclass(frozen=True)
class Palette:
    """Targets c: the constraint of MAP is E_{x, y~p} r_i(x, y) >= c_i for every named value i.

    targets: value name -> c_i, in the unit of that value's raw score. Values of the score matrix that are not named
    are free: their multiplier is exactly 0. Raises UserError for an empty palette or a target that is no finite number.
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
    def from_quantiles(cls, matrix: RewardMatrix, quantiles: Mapping[str, float]) -> Palette:
        """c_i = max(E_{p0} r_i, quantile_q(r_i)) over the base samples, q in [0, 1] (linear interpolation)."""
        targets = {}
        for name, given in quantiles.items():
            q = _finite(name, given, "quantile")
            if not 0 <= q <= 1:
                raise UserError(f"the quantile {q} of value {name!r} is outside [0, 1]: write 80 % as 0.8.")
            targets[name] = max(_of(matrix.base, matrix, name), float(np.quantile(matrix.column(name), q)))
        return cls(targets)

    @classmethod
    def from_relative_gain(
        cls, matrix: RewardMatrix, gains: Mapping[str, float], kind: Literal["log_probability", "probability"]
    ) -> Palette:
        """Relative gain kappa: c_i = E r_i + log(1 + kappa), or min(1, (1 + kappa) E r_i) for kind="probability".

        kappa = 0.1 asks for 10 % more than the base policy. Probabilities must lie in [0, 1]; kappa > -1.
        """
        if kind not in ("log_probability", "probability"):
            raise UserError(f"a relative gain of kind {kind!r} is unknown: use 'log_probability' or 'probability'.")
        targets = {}
        for name, given in gains.items():
            gain, base = _finite(name, given, "relative gain"), _of(matrix.base, matrix, name)
            if gain <= -1:
                raise UserError(f"the relative gain {gain} of value {name!r} is not above -1: write 10 % more as 0.1.")
            if kind == "probability":
                _refuse_non_probability(matrix, name)
                targets[name] = min(1.0, (1 + gain) * base)
            else:
                targets[name] = base + math.log1p(gain)
        return cls(targets)

    @classmethod
    def from_sd(cls, matrix: RewardMatrix, steps: Mapping[str, float]) -> Palette:
        """c_i = E_{p0} r_i + a_i * sd_i, a_i in standard deviations of value i over the base samples."""
        return cls(
            {
                name: _of(matrix.base, matrix, name) + _finite(name, step, "step") * matrix.sd[name]
                for name, step in steps.items()
            }
        )


def _of(statistic: Mapping[str, float], matrix: RewardMatrix, name: str) -> float:
    matrix.index([name])
    return statistic[name]


def _finite(name: str, number: float, what: str) -> float:
    if not isinstance(name, str):
        raise UserError(f"a palette is keyed by value name, not by {name!r}: write for example {{'humor': 2.5}}.")
    try:
        converted = float(number)
    except (TypeError, ValueError):
        converted = math.nan
    if isinstance(number, bool) or not math.isfinite(converted):
        raise UserError(f"the {what} of value {name!r} is {number!r}: give a finite number.")
    return converted


def _refuse_non_probability(matrix: RewardMatrix, name: str) -> None:
    low, high = matrix.column(name).min(), matrix.column(name).max()
    if low < 0 or high > 1:
        raise UserError(
            f"value {name!r} scores from {low:g} to {high:g}, so it is no probability: "
            "use kind='log_probability' or Palette.from_sd."
        )
