"""How long a response is."""

from dataclasses import dataclass

import numpy as np

from mapft.errors import UserError
from mapft.rewards.plain import PlainScore

UNITS = ("characters", "words")


@dataclass(frozen=True)
class LengthScore(PlainScore):
    """r(x, y) = sign * the response's length in `unit`, or minus its distance from `best` where that is given."""

    unit: str = "words"
    best: float | None = None
    sign: float = 1.0

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UserError(f"unit={self.unit} is unknown for length; use one of {', '.join(UNITS)}.")

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = (0.0, np.inf) if self.best is None else (-np.inf, 0.0)
        return (low, high) if self.sign > 0 else (-high, -low)

    def one(self, prompt: str, response: str) -> float:
        length = len(response) if self.unit == "characters" else len(response.split())
        return float(length) if self.best is None else -abs(length - self.best)
