"""The base policy p0, its prompts, and how it is sampled."""

from dataclasses import dataclass
from enum import StrEnum

from mapft.config.checks import require


class Dtype(StrEnum):
    """Precision of the frozen base; `auto` is bfloat16 on a GPU and float32 on a CPU."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Quantization(StrEnum):
    """How the frozen base is held in memory, by bitsandbytes: as it is, 4-bit NormalFloat, or 8-bit integers."""

    none = "none"
    nf4 = "nf4"
    int8 = "int8"


@dataclass(kw_only=True)
class ModelConfig:
    """The base policy p0: a causal language model."""

    path: str  # folder, Hub id, or playground:policy
    revision: str | None = None
    adapter: str | None = None  # a trained PEFT adapter: with it on the model is p0; it is trained on as it is
    dtype: Dtype = Dtype.auto
    quantization: Quantization = Quantization.none
    attn_implementation: str | None = None  # null: transformers' choice
    allow_pickle: bool = False  # load weights from a pickle file too, which can run code; false: safetensors only
    trust_remote_code: bool = False


class TooLong(StrEnum):
    """What to do with a prompt over max_prompt_tokens: stop and name it, leave it out, or keep its last tokens."""

    stop = "stop"
    drop = "drop"
    cut = "cut"


class Extract(StrEnum):
    """What of a text is the prompt: all of it, the text between the first "Human:" and the first "Assistant:", or its
    first 20 to 30 characters, where it has more than 30.
    """

    whole = "whole"
    first_question = "first_question"
    beginning = "beginning"


@dataclass(kw_only=True)
class DataConfig:
    """Prompts, split by their text: a prompt is either for pilot and training, or for evaluation."""

    path: str  # .jsonl, .csv or .parquet, a folder or Hub id of a dataset, or playground:prompts
    subset: str | None = None  # of a dataset: the folder in it, as load_dataset's data_dir
    split: str = "train"  # of a dataset
    column: str = "prompt"  # texts, or lists of {"role", "content"} messages
    as_chat: bool = False  # a text becomes the user's message, for a model with a chat template
    extract: Extract = Extract.whole
    evaluation_fraction: float = 0.25  # share of distinct prompts held out
    pilot_prompts: int | None = 512  # of the training prompts, to solve lambda on; null: all
    max_prompt_tokens: int = 512
    too_long: TooLong = TooLong.stop

    def __post_init__(self) -> None:
        fraction = self.evaluation_fraction
        require(0 < fraction < 1, "data.evaluation_fraction", fraction, "between 0 and 1, both excluded")
        require(self.max_prompt_tokens >= 1, "data.max_prompt_tokens", self.max_prompt_tokens, "at least 1")
        require(self.pilot_prompts is None or self.pilot_prompts >= 1, "data.pilot_prompts", self.pilot_prompts, ">= 1")


@dataclass(kw_only=True)
class SamplingConfig:
    """How every response is drawn: pilot, PPO, decoding and evaluation share it, or the promise would not hold."""

    max_new_tokens: int = 50
    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    samples_per_prompt: int = 8  # K of the pilot
    batch_size: int = 256  # responses drawn at once; changes the random draws, not their law

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "sampling.max_new_tokens", self.max_new_tokens, "at least 1")
        require(1e-3 <= self.temperature <= 1e3, "sampling.temperature", self.temperature, "from 0.001 to 1000")
        require(self.samples_per_prompt >= 1, "sampling.samples_per_prompt", self.samples_per_prompt, "at least 1")
        require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "above 0 and at most 1")
        require(self.top_k >= 0, "sampling.top_k", self.top_k, "0 (off) or more")
        require(self.batch_size >= 1, "sampling.batch_size", self.batch_size, "at least 1")
