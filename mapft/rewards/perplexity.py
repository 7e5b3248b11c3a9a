"""Log-likelihood of the text under a frozen language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np

from mapft.config.fields import setting
from mapft.rewards.model_scorer import ModelScore, ModelScorer
from mapft.rewards.score import NO_COLUMNS, Columns, check_template


@dataclass(frozen=True, kw_only=True)
class PerplexityScore(ModelScore):
    """r(x, y) = sign * mean over tokens of log p(token | tokens before it), of template.format(prompt=x, response=y).

    This is minus the log of the perplexity. The model is frozen; it is never the policy in training. The first token
    has no context and is not counted; a text of fewer than two tokens scores log(1 / vocabulary), a uniform guess.
    """

    batch_tokens: int = setting(
        8_192, "Most tokens of one forward pass, padding included.", unit="tokens", at_least=1, identity=False
    )
    template: str = setting("{prompt}{response}", "The text that the model reads.")
    unit = "nats per token"
    raw_bounds = (-inf, 0.0)
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    role: ClassVar[str] = "causal language model"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_template("template", self.template)

    def load(self, name: str) -> "PerplexityScorer":
        return PerplexityScorer(name, self)


class PerplexityScorer(ModelScorer):
    """The language model in memory."""

    settings: PerplexityScore

    def score(self, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS) -> np.ndarray:
        """(N,) float64."""
        template = self.settings.template
        rows = self.encode(template.format(prompt=x, response=y) for x, y in zip(prompts, responses, strict=True))
        scores_N = np.full(len(rows), -np.log(self.model.config.get_text_config().vocab_size))
        predicted = [number for number, row in enumerate(rows) if len(row["input_ids"]) > 1]
        if predicted:
            scores_N[predicted] = self.score_batches([rows[number] for number in predicted], self._mean_log_likelihood)
        return self.settings.sign * scores_N

    def _mean_log_likelihood(self, batch: Any) -> Any:
        """(B,), from right-padded rows; the logits are converted to fp32 one row at a time to bound memory."""
        import torch

        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = self.model(input_ids=ids, attention_mask=mask).logits
        means = []
        for row, length in enumerate(mask.sum(1).tolist()):
            log_p = logits[row, : length - 1].float().log_softmax(-1)
            means.append(log_p.gather(1, ids[row, 1:length, None]).double().mean())
        return torch.stack(means)
