"""The prompts."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from mapft.config.fields import Settings, setting


class TooLong(StrEnum):
    """What to do with a prompt over max_prompt_tokens: stop and name it, leave it out, or keep its last tokens."""

    stop = "stop"
    drop = "drop"
    cut = "cut"


class Extract(StrEnum):
    """Which part of a text is the prompt: all of it, the text between the first "Human:" and the first "Assistant:", or
    its first 20 to 30 characters (texts of 30 characters or fewer are skipped).
    """

    whole = "whole"
    first_question = "first_question"
    beginning = "beginning"


@dataclass(kw_only=True)
class DataConfig(Settings):
    """Prompts, split by their text: a prompt is either for pilot and training, or for evaluation."""

    prefix: ClassVar[str] = "data"
    path: str = setting(
        help="A .jsonl, .csv or .parquet file, a folder or Hub id of a dataset, or playground:prompts or :requests."
    )
    subset: str | None = setting(None, "Folder within a dataset, as load_dataset's data_dir.")
    split: str = setting("train", "Split of a dataset.")
    column: str = setting("prompt", "Column of texts, or of lists of {role, content} messages.")
    as_chat: bool = setting(False, "Turn each text into a user message, for a model with a chat template.")
    extract: Extract = setting(Extract.whole, "Which part of a text is the prompt.")
    max_prompts: int | None = setting(
        200_000,
        "Of a file with more distinct rows, a random sample of this size is used.",
        at_least=2,
        null="use all of them",
    )
    evaluation_fraction: float = setting(0.25, "Share of the distinct prompts held out.", above=0, below=1)
    pilot_prompts: int | None = setting(
        512, "Training prompts whose base samples lambda is solved on.", at_least=1, null="use all of them"
    )
    max_prompt_tokens: int = setting(512, "Longest prompt.", unit="tokens", at_least=1)
    too_long: TooLong = setting(TooLong.stop, "What to do with a longer prompt.")
