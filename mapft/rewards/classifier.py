"""A sequence classifier as a score: a logit, log-probability or probability of one class, or a regression head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapft.errors import UserError
from mapft.rewards.held import HeldModel, Row, encodable, estimated_nbytes

OUTPUTS = {"logit": "logit", "log_probability": "nats", "probability": "probability"}


@dataclass(frozen=True)
class ClassifierScore:
    """r(x, y) = sign * output of the class `label` on template.format(prompt=x, response=y).

    output: logit z_k | log_probability log p_k | probability p_k, with p = softmax(z) where classes exclude each other
    and sigmoid(z) where there is one logit (a regression head, label 0) or the model is multi-label. With `second` the
    model reads two segments, template and second, as a pair. max_tokens cuts long texts on the left, so that the
    response stays; batch_tokens bounds rows * longest row of one pass. A decoder is read at the text's last token.
    """

    path: str
    revision: str | None = None
    label: int = 0
    output: str = "logit"
    template: str = "{prompt}{response}"
    second: str | None = None
    sign: float = 1.0
    max_tokens: int = 512
    batch_tokens: int = 16_384
    dtype: str = "auto"
    allow_pickle: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise UserError(f"output={self.output} is unknown for a classifier; use one of {', '.join(OUTPUTS)}.")

    @property
    def unit(self) -> str:
        return OUTPUTS[self.output]

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = {"logit": (-np.inf, np.inf), "log_probability": (-np.inf, 0.0), "probability": (0.0, 1.0)}[
            self.output
        ]
        return (min(self.sign * low, self.sign * high), max(self.sign * low, self.sign * high))

    def load(self, name: str) -> "ClassifierScorer":
        return ClassifierScorer(name, self)

    def files(self) -> list[str]:
        return [self.path]

    def estimated_nbytes(self) -> int:
        from transformers import AutoModelForSequenceClassification

        return estimated_nbytes(self, AutoModelForSequenceClassification)


class ClassifierScorer(HeldModel):
    """The classifier in memory. Batch composition never changes a score beyond rounding."""

    settings: ClassifierScore

    def __init__(self, name: str, settings: ClassifierScore):
        from transformers import (
            MODEL_FOR_CAUSAL_LM_MAPPING,
            MODEL_FOR_MASKED_LM_MAPPING,
            AutoModelForSequenceClassification,
        )

        super().__init__(name, settings, AutoModelForSequenceClassification, "classifier")
        if not 0 <= settings.label < self.model.config.num_labels:
            raise UserError(
                f"rewards.{name}.label={settings.label} is out of range; {settings.path} has "
                f"{self.model.config.num_labels} classes, counted from 0."
            )
        config = self.model.config
        self._exclusive = config.num_labels > 1 and config.problem_type != "multi_label_classification"
        # A decoder is read at its last token, which it finds as the last that is not padding: with padding on the left
        # and no token that counts as padding, that is the text's own last one, whatever it is.
        kind = type(config)
        self._reads_the_last = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
        if self._reads_the_last:
            self.tokenizer.padding_side = "left"
            config.get_text_config().pad_token_id = -1

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(N,) float64."""
        pairs = list(zip(prompts, responses, strict=True))
        if self.settings.second is None:
            rows = self.rows(self.settings.template.format(prompt=p, response=r) for p, r in pairs)
        else:
            rows = [self._pair(self.settings.template.format(prompt=p, response=r), p, r) for p, r in pairs]
        return self.settings.sign * self.by_batch(rows, self._output)

    def _pair(self, first: str, prompt: str, response: str) -> Row:
        """Two segments; the first is cut before the second."""
        assert self.settings.second is not None
        first, second = encodable(first), encodable(self.settings.second.format(prompt=prompt, response=response))
        room = self.longest - self.tokenizer.num_special_tokens_to_add(pair=True)
        fits = len(self.tokenizer(second, add_special_tokens=False)["input_ids"]) < room
        how = "only_first" if fits else "longest_first"
        return self.row(self.tokenizer(first, second, truncation=how, max_length=self.longest))

    def _output(self, batch: Any) -> Any:
        """(B,), in float64."""
        from torch.nn.functional import logsigmoid

        from mapft.forward import model_inputs

        inputs = model_inputs(self.model, **batch) if self._reads_the_last else batch
        logits = self.model(**inputs).logits.double()
        if self.settings.output == "logit":
            return logits[:, self.settings.label]
        log_p = (logits.log_softmax(-1) if self._exclusive else logsigmoid(logits))[:, self.settings.label]
        return log_p if self.settings.output == "log_probability" else log_p.exp()
