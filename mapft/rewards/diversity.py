"""Lexical diversity: the share of distinct n-grams of a text."""

from dataclasses import dataclass
from enum import StrEnum

from mapft.config.fields import require, setting
from mapft.rewards.score import check_template
from mapft.rewards.text_score import TextScore


class DiversityMeasure(StrEnum):
    """product over n of unique n-grams / (n-grams + 1), or unique n-grams / n-grams of one n (distinct-n)."""

    product = "product"
    distinct = "distinct"


@dataclass(frozen=True, kw_only=True)
class DiversityScore(TextScore):
    """r(x, y) = sign * a measure of the word n-grams of template.format(prompt=x, response=y), words split at spaces.

    product: prod over n in `orders` of unique n-grams / (n-grams + 1). distinct: unique n-grams / n-grams for the one n
    in `orders` (distinct-n; 0 without n-grams). Both lie in [0, 1] before the sign.
    """

    measure: DiversityMeasure = setting(DiversityMeasure.product, "How the n-grams are counted.")
    orders: tuple[int, ...] = setting((2, 3, 4), "The n of the n-grams, each at least 1; distinct needs exactly one.")
    template: str = setting("{prompt}{response}", "The text whose n-grams are counted.")
    unit = "share"
    raw_bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_template("template", self.template)
        require(min(self.orders, default=0) >= 1, "orders", list(self.orders), "one or more numbers of at least 1")
        single = self.measure != DiversityMeasure.distinct or len(self.orders) == 1
        require(single, "orders", list(self.orders), "a single n for measure=distinct")

    def score_one(self, prompt: str, response: str) -> float:
        words = self.template.format(prompt=prompt, response=response).split()
        extra = 1 if self.measure == DiversityMeasure.product else 0
        product = 1.0
        for n in self.orders:
            grams = list(zip(*(words[start:] for start in range(n)), strict=False))
            product *= len(set(grams)) / max(len(grams) + extra, 1)
        return product
