"""What all scores that hold a model share: loading, its size, its device, and length-sorted passes within a budget."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mapft.errors import UserError
from mapft.paths import existing_or_hub


class HeldModel:
    """A frozen model and its tokenizer on the best device here."""

    def __init__(self, name: str, settings: Any, auto: Any, what: str, padding: str = "right"):
        from transformers import AutoTokenizer

        from mapft.forward import device

        path = existing_or_hub(settings.path, f"rewards.{name}.path")
        options = _options(settings)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(
                path, truncation_side="left", padding_side=padding, **options
            )
            model, loading = auto.from_pretrained(
                path,
                dtype=settings.dtype,
                output_loading_info=True,
                use_safetensors=None if settings.allow_pickle else True,
                **options,
            )
        except (OSError, ValueError) as error:
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
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.config.pad_token_id = self.tokenizer.pad_token_id

    def to_device(self) -> None:
        self.model.to(self.device)

    def to_host(self) -> None:
        self.model.to("cpu")

    def ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of each text, its beginning cut where it is longer than max_tokens."""
        clean = [encodable(text) for text in texts]
        return self.tokenizer(clean, truncation=True, max_length=self.settings.max_tokens)["input_ids"]

    def by_batch(self, rows: Sequence[list[int]], score: Callable[[Any], Any]) -> np.ndarray:
        """score(padded batch) for all rows, (N, ...) float64; rows of similar length share a pass."""
        import torch

        parts: dict[int, Any] = {}
        with torch.inference_mode():
            for batch in by_length([len(row) for row in rows], self.settings.batch_tokens):
                padded = self.tokenizer.pad({"input_ids": [rows[i] for i in batch]}, return_tensors="pt")
                scores = score(padded.to(self.device)).double().cpu().numpy()
                parts |= dict(zip(batch, scores, strict=True))
        return np.array([parts[i] for i in range(len(rows))])


def estimated_nbytes(settings: Any, auto: Any) -> int:
    """Bytes of the model's weights from its config alone; 0 where that does not load (loading says why)."""
    import torch
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(existing_or_hub(settings.path, "path"), **_options(settings))
        with torch.device("meta"):
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
