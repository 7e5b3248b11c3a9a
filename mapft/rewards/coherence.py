"""How near the response stays to the prompt, by the angle between their embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapft.errors import UserError
from mapft.rewards.held import HeldModel, estimated_nbytes


@dataclass(frozen=True)
class CoherenceScore:
    """r(x, y) = sign * cos(e(x), e(y)), e the pooled output of an encoder (BERT's pooler, as sup-simcse is read)."""

    path: str
    revision: str | None = None
    sign: float = 1.0
    max_tokens: int = 512
    batch_tokens: int = 16_384
    dtype: str = "auto"
    allow_pickle: bool = False
    trust_remote_code: bool = False
    unit = "cosine"
    bounds = (-1.0, 1.0)

    def load(self, name: str) -> "CoherenceScorer":
        return CoherenceScorer(name, self)

    def files(self) -> list[str]:
        return [self.path]

    def estimated_nbytes(self) -> int:
        from transformers import AutoModel

        return estimated_nbytes(self, AutoModel)


class CoherenceScorer(HeldModel):
    """The encoder in memory."""

    def __init__(self, name: str, settings: CoherenceScore):
        from transformers import AutoModel

        super().__init__(name, settings, AutoModel, "encoder")
        if getattr(self.model, "pooler", None) is None:
            raise UserError(f"rewards.{name}.path={settings.path} has no pooled output; give a BERT-like encoder.")

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(N,) float64. Every distinct text is read once."""
        texts = list(dict.fromkeys([*prompts, *responses]))
        vectors = self.by_batch(self.rows(texts), self._direction)
        place = {text: number for number, text in enumerate(texts)}
        x, y = (vectors[[place[text] for text in side]] for side in (prompts, responses))
        return self.settings.sign * np.einsum("nd,nd->n", x, y)

    def _direction(self, batch: Any) -> Any:
        pooled = self.model(**batch).pooler_output.double()
        return pooled / pooled.norm(dim=-1, keepdim=True).clamp(min=1e-12)
