"""A sequence classifier as a score: a logit, log-probability or probability of one class, or a regression head."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any, ClassVar

import numpy as np

from mapft.config.fields import setting
from mapft.rewards.model_scorer import ModelScore, ModelScorer, TokenRow
from mapft.rewards.score import NO_COLUMNS, Columns, check_template
from mapft.utils.errors import UserError
from mapft.utils.text import encodable


class Output(StrEnum):
    """z_k, log p_k or p_k of class k = label."""

    logit = "logit"
    log_probability = "log_probability"
    probability = "probability"


UNITS = {Output.logit: "logit", Output.log_probability: "nats", Output.probability: "probability"}
BOUNDS = {Output.logit: (-inf, inf), Output.log_probability: (-inf, 0.0), Output.probability: (0.0, 1.0)}


@dataclass(frozen=True, kw_only=True)
class ClassifierScore(ModelScore):
    """r(x, y) = sign * output of class `label` for the text template.format(prompt=x, response=y).

    output: logit z_k, log_probability log p_k or probability p_k, with p = softmax(z) where the classes exclude each
    other, and sigmoid(z) where there is one logit (a regression head, label 0) or the model is multi-label. With
    `second`, the model reads the pair of segments (template, second). Decoders are read at the last token of the text.
    """

    label: int = setting(0, "Class whose output is the score, counted from 0.", at_least=0)
    output: Output = setting(Output.logit, "Which output of that class.")
    template: str = setting("{prompt}{response}", "The text that the model reads, or its first segment.")
    second: str | None = setting(None, "Template of the second segment; null: one segment.")
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    role: ClassVar[str] = "classifier"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_template("template", self.template)
        check_template("second", self.second or "")

    @property
    def unit(self) -> str:
        return UNITS[self.output]

    @property
    def raw_bounds(self) -> tuple[float, float]:
        return BOUNDS[self.output]

    def load(self, name: str) -> "ClassifierScorer":
        return ClassifierScorer(name, self)


class ClassifierScorer(ModelScorer):
    """The classifier in memory. Batch composition never changes a score beyond rounding."""

    settings: ClassifierScore

    def __init__(self, name: str, settings: ClassifierScore):
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

        super().__init__(name, settings)
        config = self.model.config
        if settings.label >= config.num_labels:
            raise UserError(
                f"rewards.{name}.label={settings.label} is out of range; {settings.path} has {config.num_labels} "
                "classes, counted from 0."
            )
        self._exclusive = config.num_labels > 1 and config.problem_type != "multi_label_classification"
        # A decoder scores the last token that is not padding. With padding on the left and no id that counts as
        # padding, that is the last token of the text, even where it is the token used for padding.
        kind = type(config)
        self._is_decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
        if self._is_decoder:
            self.tokenizer.padding_side = "left"
            config.get_text_config().pad_token_id = -1

    def score(self, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS) -> np.ndarray:
        """(N,) float64."""
        pairs = list(zip(prompts, responses, strict=True))
        firsts = (self.settings.template.format(prompt=x, response=y) for x, y in pairs)
        if self.settings.second is None:
            rows = self.encode(firsts)
        else:
            seconds = (self.settings.second.format(prompt=x, response=y) for x, y in pairs)
            rows = [self._encode_pair(first, second) for first, second in zip(firsts, seconds, strict=True)]
        return self.settings.sign * self.score_batches(rows, self._output)

    def _encode_pair(self, first: str, second: str) -> TokenRow:
        """Two segments; the second is cut only where it alone exceeds max_length."""
        first, second = encodable(first), encodable(second)
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True)
        second_fits = len(self.tokenizer(second, add_special_tokens=False)["input_ids"]) < room
        truncation = "only_first" if second_fits else "longest_first"
        return self.as_row(self.tokenizer(first, second, truncation=truncation, max_length=self.max_length))

    def _output(self, batch: Any) -> Any:
        """(B,), in float64."""
        from torch.nn.functional import logsigmoid

        from mapft.utils.forward import model_inputs

        inputs = model_inputs(self.model, **batch) if self._is_decoder else batch
        logits = self.model(**inputs).logits.double()
        if self.settings.output == Output.logit:
            return logits[:, self.settings.label]
        log_p = (logits.log_softmax(-1) if self._exclusive else logsigmoid(logits))[:, self.settings.label]
        return log_p if self.settings.output == Output.log_probability else log_p.exp()
