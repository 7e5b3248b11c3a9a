"""What all scores that hold a model share: loading, its size, its device, and length-sorted passes within a budget."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mapft.errors import UserError
from mapft.paths import existing_or_hub

Row = dict[str, list[int]]  # what a tokenizer makes of one text: input_ids, and token_type_ids where it has segments


class HeldModel:
    """A frozen model and its tokenizer on the best device here."""

    def __init__(self, name: str, settings: Any, auto: Any, what: str):
        from safetensors import SafetensorError
        from transformers import AutoTokenizer

        from mapft.forward import device, whole_weights

        path = existing_or_hub(settings.path, f"rewards.{name}.path")
        options = _options(settings)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(
                path, truncation_side="left", padding_side="right", **options
            )
            with whole_weights():
                model, loading = auto.from_pretrained(
                    path,
                    dtype=settings.dtype,
                    output_loading_info=True,
                    use_safetensors=None if settings.allow_pickle else True,
                    **options,
                )
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"rewards.{name}.path={settings.path} holds no {what} that loads: {error}") from error
        if loading["missing_keys"]:
            raise UserError(
                f"rewards.{name}.path={settings.path} lacks weights ({sorted(loading['missing_keys'])[0]}), which "
                f"would be random; give a model that was trained as a {what}."
            )
        self.device = device()
        self.model = model.eval().to(self.device)
        self.nbytes = sum(p.numel() * p.element_size() for p in model.parameters())
        self.name, self.settings = name, settings
        self.longest = min(settings.max_tokens, self.tokenizer.model_max_length, _positions(model))
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def to_device(self) -> None:
        self.model.to(self.device)

    def to_host(self) -> None:
        self.model.to("cpu")

    def rows(self, texts: Iterable[str]) -> list[Row]:
        """Each text as tokens, its beginning cut where it is longer than the model or max_tokens allows."""
        given = self.tokenizer([encodable(text) for text in texts], truncation=True, max_length=self.longest)
        return [self.row({key: lists[i] for key, lists in given.items()}) for i in range(len(given["input_ids"]))]

    def row(self, encoded: Row) -> Row:
        """Without its mask; a text of no token at all becomes one of padding, which a model can read."""
        kept = {key: list(ids) for key, ids in encoded.items() if key != "attention_mask"}
        return kept if kept["input_ids"] else {"input_ids": [self.tokenizer.pad_token_id or 0]}

    def by_batch(self, rows: Sequence[Row], score: Callable[[Any], Any]) -> np.ndarray:
        """score(padded batch) for all rows, (N, ...) float64; rows of similar length share a pass."""
        import torch

        parts: dict[int, Any] = {}
        with torch.inference_mode():
            for batch in by_length([len(row["input_ids"]) for row in rows], self.settings.batch_tokens):
                padded = self.tokenizer.pad(_together([rows[i] for i in batch]), return_tensors="pt")
                scores = score(padded.to(self.device)).double().cpu().numpy()
                parts |= dict(zip(batch, scores, strict=True))
        return np.array([parts[i] for i in range(len(rows))])


def _together(rows: Sequence[Row]) -> dict[str, list[list[int]]]:
    """Columns of a batch; a row of padding alone has no segments of its own."""
    keys = {key for row in rows for key in row}
    return {key: [row.get(key, [0] * len(row["input_ids"])) for row in rows] for key in keys}


def _positions(model: Any) -> int:
    """How many tokens the model can read; RoBERTa and its like count theirs from behind the padding's position."""
    from torch import nn

    most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return most - module.padding_idx - 1
    return most


def estimated_nbytes(settings: Any, auto: Any) -> int:
    """Bytes of the model's weights from its config alone; 0 where that does not load (loading says why)."""
    import torch
    from transformers import AutoConfig

    from mapft.forward import whole_weights

    try:
        config = AutoConfig.from_pretrained(existing_or_hub(settings.path, "path"), **_options(settings))
        with whole_weights(), torch.device("meta"):
            kept = (config.dtype or torch.float32) if settings.dtype == "auto" else getattr(torch, settings.dtype)
            model = auto.from_config(config, trust_remote_code=settings.trust_remote_code, dtype=kept)
    except (OSError, ValueError):
        return 0
    return sum(p.numel() * p.element_size() for p in model.parameters())


def encodable(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Row numbers in batches of similar length, rows * longest row <= batch_tokens (at least one row each)."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * max(lengths[batches[-1][0]], 1) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _options(settings: Any) -> dict[str, Any]:
    return {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
