"""How little a text repeats itself."""

from dataclasses import dataclass

from mapft.errors import UserError
from mapft.rewards.plain import PlainScore

MEASURES = ("product", "distinct")


@dataclass(frozen=True)
class DiversityScore(PlainScore):
    """r(x, y) = sign * a measure of the word n-grams of template.format(prompt=x, response=y), words split at spaces.

    product: prod over n in `orders` of unique n-grams / (n-grams + 1). distinct: unique n-grams / n-grams for the one n
    in `orders` (distinct-n; 0 without any). Both lie in [0, 1] before the sign.
    """

    measure: str = "product"
    orders: tuple[int, ...] = (2, 3, 4)
    template: str = "{prompt}{response}"
    sign: float = 1.0
    unit = "share"

    def __post_init__(self) -> None:
        object.__setattr__(self, "orders", tuple(self.orders))
        if self.measure not in MEASURES:
            raise UserError(f"measure={self.measure} is unknown for diversity; use one of {', '.join(MEASURES)}.")
        if not self.orders or min(self.orders) < 1 or (self.measure == "distinct" and len(self.orders) != 1):
            raise UserError(
                f"orders={list(self.orders)} does not fit measure={self.measure}; distinct takes one n >= 1."
            )

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, self.sign) if self.sign > 0 else (self.sign, 0.0)

    def one(self, prompt: str, response: str) -> float:
        words = self.template.format(prompt=prompt, response=response).split()
        total = 1.0
        for n in self.orders:
            grams = list(zip(*(words[start:] for start in range(n)), strict=False))
            more = 1 if self.measure == "product" else 0
            total *= len(set(grams)) / max(len(grams) + more, 1)
        return total
