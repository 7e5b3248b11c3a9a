"""How likely a frozen language model finds the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapft.rewards.held import HeldModel, estimated_nbytes


@dataclass(frozen=True)
class PerplexityScore:
    """r(x, y) = sign * mean over tokens of log p(token | tokens before it), of template.format(prompt=x, response=y).

    Minus the log of the perplexity under the model, which is frozen: never the policy in training. The first token is
    predicted from nothing and not counted; a text of fewer than two tokens scores log(1 / vocabulary), a blind guess.
    """

    path: str
    revision: str | None = None
    template: str = "{prompt}{response}"
    sign: float = 1.0
    max_tokens: int = 512
    batch_tokens: int = 8_192
    dtype: str = "auto"
    allow_pickle: bool = False
    trust_remote_code: bool = False
    unit = "nats per token"

    @property
    def bounds(self) -> tuple[float, float]:
        return (-np.inf, 0.0) if self.sign > 0 else (0.0, np.inf)

    def load(self, name: str) -> "PerplexityScorer":
        return PerplexityScorer(name, self)

    def files(self) -> list[str]:
        return [self.path]

    def estimated_nbytes(self) -> int:
        from transformers import AutoModelForCausalLM

        return estimated_nbytes(self, AutoModelForCausalLM)


class PerplexityScorer(HeldModel):
    """The language model in memory."""

    settings: PerplexityScore

    def __init__(self, name: str, settings: PerplexityScore):
        from transformers import AutoModelForCausalLM

        super().__init__(name, settings, AutoModelForCausalLM, "language model")

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(N,) float64."""
        template = self.settings.template
        texts = (template.format(prompt=p, response=r) for p, r in zip(prompts, responses, strict=True))
        rows = self.rows(texts)
        out = np.full(len(rows), -np.log(self.model.config.get_text_config().vocab_size))
        long = [i for i, row in enumerate(rows) if len(row["input_ids"]) > 1]
        if long:
            out[long] = self.by_batch([rows[i] for i in long], self._mean_log_likelihood)
        return self.settings.sign * out

    def _mean_log_likelihood(self, batch: Any) -> Any:
        """(B,), from right-padded rows; one row's logits are widened to fp32 at a time."""
        import torch

        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = self.model(input_ids=ids, attention_mask=mask).logits
        means = []
        for row, length in enumerate(mask.sum(1).tolist()):
            log_p = logits[row, : length - 1].float().log_softmax(-1)
            means.append(log_p.gather(1, ids[row, 1:length, None]).double().mean())
        return torch.stack(means)
