"""Similarity of the response to the prompt: the cosine between their embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mapft.rewards.model_scorer import ModelScore, ModelScorer
from mapft.rewards.score import NO_COLUMNS, Columns
from mapft.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CoherenceScore(ModelScore):
    """r(x, y) = sign * cos(e(x), e(y)), where e is the pooled output of a text encoder, as in sup-simcse."""

    unit = "cosine"
    raw_bounds = (-1.0, 1.0)
    auto_class: ClassVar[str] = "AutoModel"
    role: ClassVar[str] = "text encoder"

    def load(self, name: str) -> "CoherenceScorer":
        return CoherenceScorer(name, self)


class CoherenceScorer(ModelScorer):
    """The encoder in memory."""

    def __init__(self, name: str, settings: CoherenceScore):
        super().__init__(name, settings)
        if getattr(self.model, "pooler", None) is None:
            raise UserError(f"rewards.{name}.path={settings.path} has no pooled output; give a BERT-like encoder.")

    def score(self, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS) -> np.ndarray:
        """(N,) float64. Every distinct text is encoded once."""
        texts = list(dict.fromkeys([*prompts, *responses]))
        embeddings = self.score_batches(self.encode(texts), self._embedding)
        index = {text: number for number, text in enumerate(texts)}
        x_ND, y_ND = (embeddings[[index[text] for text in column]] for column in (prompts, responses))
        return self.settings.sign * np.einsum("nd,nd->n", x_ND, y_ND)

    def _embedding(self, batch: Any) -> Any:
        """(B, D), of length 1."""
        pooled = self.model(**batch).pooler_output.double()
        return pooled / pooled.norm(dim=-1, keepdim=True).clamp(min=1e-12)
