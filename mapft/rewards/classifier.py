"""A sequence classifier as a score: a logit, log-probability or probability of one class, or a regression head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapft.errors import UserError
from mapft.paths import existing_or_hub

OUTPUTS = ("logit", "log_probability", "probability")


@dataclass(frozen=True)
class ClassifierScore:
    """r(x, y) = sign * output of the class `label` on template.format(prompt=x, response=y).

    output: logit z_k | log_probability log softmax(z)_k | probability softmax(z)_k. A regression head has one logit,
    label 0. max_tokens cuts long texts on the left, so that the response stays; batch_tokens bounds rows * longest row
    of one pass.
    """

    path: str
    revision: str | None = None
    label: int = 0
    output: str = "logit"
    template: str = "{prompt}{response}"
    sign: float = 1.0
    max_tokens: int = 512
    batch_tokens: int = 16_384
    dtype: str = "auto"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise UserError(f"output={self.output} is unknown for a classifier; use one of {', '.join(OUTPUTS)}.")
        try:
            self.template.format(prompt="", response="")
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"template={self.template!r} does not fit; it takes {{prompt}} and {{response}}."
            ) from error

    def load(self, name: str) -> "ClassifierScorer":
        return ClassifierScorer(name, self)

    def files(self) -> list[str]:
        return [self.path]

    def estimated_nbytes(self) -> int:
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification

        path = existing_or_hub(self.path, "path")
        options: dict[str, Any] = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        try:
            config = AutoConfig.from_pretrained(path, **options)
            with torch.device("meta"):
                model = AutoModelForSequenceClassification.from_config(
                    config, trust_remote_code=self.trust_remote_code, dtype=config.dtype or torch.float32
                )
        except (OSError, ValueError):
            return 0  # loading says what is wrong with it
        return nbytes(model)


class ClassifierScorer:
    """The classifier in memory. Texts are sorted by length; batch composition never changes a score beyond rounding."""

    def __init__(self, name: str, settings: ClassifierScore):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from mapft.forward import device

        path = existing_or_hub(settings.path, f"rewards.{name}.path")
        options: dict[str, Any] = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, truncation_side="left", **options)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=settings.dtype, output_loading_info=True, **options
            )
        except (OSError, ValueError) as error:
            raise UserError(f"rewards.{name}.path={settings.path} holds no classifier that loads: {error}") from error
        if loading["missing_keys"]:
            raise UserError(
                f"rewards.{name}.path={settings.path} lacks weights ({sorted(loading['missing_keys'])[0]}), which "
                "would be random; give a model that was trained as a classifier."
            )
        if not 0 <= settings.label < model.config.num_labels:
            raise UserError(
                f"rewards.{name}.label={settings.label} is out of range; {settings.path} has "
                f"{model.config.num_labels} classes, counted from 0."
            )
        self.device = device()
        self.model = model.eval().to(self.device)
        self.nbytes = nbytes(model)
        self.name, self.settings = name, settings
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.config.pad_token_id = self.tokenizer.pad_token_id

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(N,) float64."""
        import torch

        template, limit = self.settings.template, self.settings.max_tokens
        texts = [template.format(prompt=p, response=r) for p, r in zip(prompts, responses, strict=True)]
        rows = self.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
        out = np.empty(len(rows))
        with torch.inference_mode():
            for batch in by_length([len(row) for row in rows], self.settings.batch_tokens):
                padded = self.tokenizer.pad(
                    {"input_ids": [rows[i] for i in batch]}, padding_side="right", return_tensors="pt"
                )
                logits = self.model(**padded.to(self.device)).logits.double()
                out[batch] = self._output(logits).cpu().numpy()
        return self.settings.sign * out

    def to_device(self) -> None:
        self.model.to(self.device)

    def to_host(self) -> None:
        self.model.to("cpu")

    def _output(self, logits: Any) -> Any:
        if self.settings.output == "logit":
            return logits[:, self.settings.label]
        log_p = logits.log_softmax(-1)[:, self.settings.label]
        return log_p if self.settings.output == "log_probability" else log_p.exp()


def nbytes(model: Any) -> int:
    """Bytes of a model's weights."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Row numbers in batches of similar length, rows * longest row <= batch_tokens (at least one row each)."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * max(lengths[batches[-1][0]], 1) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
