"""The base of the scores that a model computes: settings, loading, size, device, and passes of similar length.

Legend: N responses, B rows of a batch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mapft.config import Dtype
from mapft.config.fields import setting
from mapft.playground.paths import existing_or_hub
from mapft.rewards.score import Score
from mapft.utils.errors import working_on
from mapft.utils.text import encodable

TokenRow = dict[str, list[int]]  # one encoded text: input_ids, and token_type_ids where the tokenizer has segments


@dataclass(frozen=True, kw_only=True)
class ModelScore(Score):
    """Settings of a score that a model of transformers computes."""

    path: str = setting(help="Folder or Hub id of the model.")
    revision: str | None = setting(None, "Branch, tag or commit on the Hub; null: the default branch.")
    max_tokens: int = setting(512, "Longest text; of a longer one the last tokens are kept.", unit="tokens", at_least=1)
    batch_tokens: int = setting(
        16_384, "Most tokens of one forward pass, padding included.", unit="tokens", at_least=1, identity=False
    )
    dtype: Dtype = setting(Dtype.auto, "Precision of the weights; auto: as they were saved.")
    allow_pickle: bool = setting(
        False, "Also load weights from a pickle file, which can run code; false: safetensors only."
    )
    trust_remote_code: bool = setting(False, "Run Python code that comes with the model.")
    auto_class: ClassVar[str]  # the class of transformers that loads the model
    role: ClassVar[str]  # what the model is called in messages

    @property
    def stored_rows(self) -> int:
        return 128

    def order(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[int]:
        """The longest texts first, so that those of similar length are in one batch."""
        return sorted(range(len(responses)), key=lambda row: -len(prompts[row]) - len(responses[row]))

    def files(self) -> list[str]:
        return [self.path]

    def estimated_nbytes(self) -> int:
        """From the model's config; 0 where that does not load, because `load` then reports the error."""
        import torch
        import transformers

        from mapft.utils.device import whole_weights

        try:
            config = transformers.AutoConfig.from_pretrained(existing_or_hub(self.path, "path"), **self.hub_options)
            saved = config.dtype or torch.float32
            dtype = saved if self.dtype == Dtype.auto else getattr(torch, str(self.dtype))
            with whole_weights(), torch.device("meta"):
                model = getattr(transformers, self.auto_class).from_config(
                    config, trust_remote_code=self.trust_remote_code, dtype=dtype
                )
        except Exception:  # whatever transformers raises
            return 0
        return _nbytes(model)

    @property
    def hub_options(self) -> dict[str, Any]:
        """Arguments of every from_pretrained."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


class ModelScorer:
    """A frozen model and its tokenizer on the device of this process."""

    def __init__(self, name: str, settings: ModelScore):
        from mapft.utils.device import device

        self.name, self.settings, self.device = name, settings, device()
        self.source = f"rewards.{name}.path={settings.path}"
        model, self.tokenizer = _load(name, settings)
        self.model = model.eval().to(self.device)
        self.nbytes = _nbytes(model)
        self.max_length = min(settings.max_tokens, self.tokenizer.model_max_length, _max_positions(model))
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def to_device(self) -> None:
        """Move the weights to the device of this process."""
        self.model.to(self.device)

    def to_host(self) -> None:
        """Move the weights to host memory."""
        self.model.to("cpu")

    def encode(self, texts: Iterable[str]) -> list[TokenRow]:
        """The tokens of each text; of a text over `max_length` tokens, the last ones."""
        with working_on(f"The tokenizer of {self.source}"):
            columns = self.tokenizer([encodable(text) for text in texts], truncation=True, max_length=self.max_length)
        return [
            self.as_row({key: rows[number] for key, rows in columns.items()})
            for number in range(len(columns["input_ids"]))
        ]

    def as_row(self, encoded: Mapping[str, Sequence[int]]) -> TokenRow:
        """An encoded text without its attention mask; a text without tokens becomes one padding token."""
        from mapft.utils.weights import check_vocabulary

        row = {key: list(ids) for key, ids in encoded.items() if key != "attention_mask"}
        check_vocabulary({"a token": max(row["input_ids"], default=0)}, self.model, self.source)
        return row if row["input_ids"] else {"input_ids": [self.tokenizer.pad_token_id or 0]}

    def score_batches(self, rows: Sequence[TokenRow], score: Callable[[Any], Any]) -> np.ndarray:
        """score(padded batch) for all rows, (N, ...) float64. Rows of similar length share a forward pass."""
        import torch

        scores: dict[int, Any] = {}
        with torch.inference_mode():
            for batch in batches_by_length([len(row["input_ids"]) for row in rows], self.settings.batch_tokens):
                padded = self.tokenizer.pad(_columns([rows[i] for i in batch]), return_tensors="pt")
                with working_on(self.source, "cannot score"):
                    batch_scores = score(padded.to(self.device)).double().cpu().numpy()
                scores |= dict(zip(batch, batch_scores, strict=True))
        return np.array([scores[i] for i in range(len(rows))])


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Row numbers in batches of similar length, rows * longest row <= batch_tokens, at least one row each."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * max(lengths[batches[-1][0]], 1) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _load(name: str, settings: ModelScore) -> tuple[Any, Any]:
    """The model with all its weights, and its tokenizer."""
    import transformers

    from mapft.utils.device import whole_weights
    from mapft.utils.weights import check_vocabulary, check_weights

    source = f"rewards.{name}.path={settings.path}"
    path = existing_or_hub(settings.path, f"rewards.{name}.path")
    with working_on(source, f"cannot be loaded as a {settings.role}"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path, truncation_side="left", padding_side="right", **settings.hub_options
        )
        with whole_weights():
            model, loading = getattr(transformers, settings.auto_class).from_pretrained(
                path,
                dtype=str(settings.dtype),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # check_weights names them
                use_safetensors=None if settings.allow_pickle else True,
                **settings.hub_options,
            )
    check_weights(model, loading, source, settings.role)
    check_vocabulary({"its padding token": tokenizer.pad_token_id}, model, source)
    return model, tokenizer


def _nbytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _columns(rows: Sequence[TokenRow]) -> dict[str, list[list[int]]]:
    """The batch by column; a row without segments, which is all padding, belongs to segment 0."""
    keys = {key for row in rows for key in row}
    return {key: [row.get(key, [0] * len(row["input_ids"])) for row in rows] for key in keys}


def _max_positions(model: Any) -> int:
    """Longest input of the model in tokens; RoBERTa and similar models count positions from padding_idx + 1."""
    from torch import nn

    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return positions - module.padding_idx - 1
    return positions
