"""The base policy p0."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from mapft.config.fields import Settings, setting


class Dtype(StrEnum):
    """Precision of the frozen base; `auto` is bfloat16 on a GPU and float32 on a CPU."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Quantization(StrEnum):
    """How bitsandbytes holds the frozen base in memory: unchanged, as 4-bit NormalFloat, or as 8-bit integers."""

    none = "none"
    nf4 = "nf4"
    int8 = "int8"


@dataclass(kw_only=True)
class ModelConfig(Settings):
    """The base policy p0: a causal language model, optionally with a trained adapter."""

    prefix: ClassVar[str] = "model"
    path: str = setting(
        help="Folder, .gguf file or Hub id of a causal language model, package:NAME/FILE or playground:policy."
    )
    revision: str | None = setting(None, "Branch, tag or commit on the Hub; null: the default branch.")
    adapter: str | None = setting(
        None, "A trained PEFT adapter. The model with this adapter is p0, and training starts from it."
    )
    dtype: Dtype = setting(Dtype.auto, "Precision of the frozen base.")
    quantization: Quantization = setting(Quantization.none, "Quantization of the frozen base by bitsandbytes.")
    attn_implementation: str | None = setting(None, "Attention kernel, by transformers' name; null: its default.")
    allow_pickle: bool = setting(
        False, "Also load weights from a pickle file, which can run code; false: safetensors only."
    )
    trust_remote_code: bool = setting(False, "Run Python code that comes with the model.")
