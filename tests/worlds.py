"""A second world with nothing of the playground's: a GPT-2 policy, a BERT classifier, English prompts, a function.

Everything is built in a folder given by the test, with random weights and tokenizers trained on the prompts.
"""

import json
import os
import signal
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

SUBJECTS = ["the garden", "an old bicycle", "my neighbour", "a rainy Monday", "the night train", "fresh bread"]
REQUESTS = ["Tell me about {}.", "Write one line on {}.", "What do you think of {}?", "Why is {} so quiet?"]
PROMPTS = [request.format(subject) for request in REQUESTS for subject in SUBJECTS]


def tokenizer(eos: str) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[eos], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator(PROMPTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos)


def build(folder: Path) -> dict[str, Path]:
    """{"model", "judge", "prompts"}: folders and a jsonl file."""
    words = tokenizer("<|end|>")
    torch.manual_seed(0)
    policy = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(words),
            n_embd=64,
            n_layer=2,
            n_head=2,
            n_positions=64,
            bos_token_id=words.eos_token_id,
            eos_token_id=words.eos_token_id,
            initializer_range=0.1,
        )
    )
    policy.generation_config.update(do_sample=True, top_k=3, repetition_penalty=1.3)
    judge_words = tokenizer("[SEP]")
    judge_words.pad_token = "[SEP]"
    judge = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(judge_words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            num_labels=2,
            initializer_range=0.5,
        )
    ).eval()
    paths = {"model": folder / "policy", "judge": folder / "judge", "prompts": folder / "prompts.jsonl"}
    policy.save_pretrained(paths["model"])
    words.save_pretrained(paths["model"])
    judge.save_pretrained(paths["judge"])
    judge_words.save_pretrained(paths["judge"])
    paths["prompts"].write_text("".join(json.dumps({"question": prompt}) + "\n" for prompt in PROMPTS), "utf-8")
    return paths


def vowels(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """Share of vowels: a score for rewards.*.target=tests.worlds:vowels."""
    return [sum(c in "aeiou" for c in text) / (len(text) + 1) for text in completions]


def counted(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """Vowels, writing down what was asked in $ASKED; $DEADLY requests later the process kills itself."""
    asked = Path(os.environ["ASKED"])
    if os.environ["DEADLY"] and asked.exists() and len(asked.read_text().splitlines()) >= int(os.environ["DEADLY"]):
        os.kill(os.getpid(), signal.SIGKILL)
    with asked.open("a") as file:
        file.write(json.dumps(list(zip(prompts, completions, strict=True))) + "\n")
    return vowels(prompts, completions)


def broken(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """A score that fails at the third response."""
    return [float("nan") if i == 2 else 0.0 for i in range(len(completions))]


SMALL = [
    "trainer.total_episodes=128",
    "trainer.per_device_train_batch_size=16",
    "trainer.num_mini_batches=2",
    "evaluation.samples_per_prompt=4",
]


def own(world, output: Path, *more: str, palette: str = "+palette.quantiles.vowels=0.6") -> list[str]:
    """Overrides for a model, prompts and rewards that are not the playground's."""
    return [
        "experiment=own",
        f"model.path={world['model']}",
        f"data.path={world['prompts']}",
        "data.column=question",
        "rewards=[]",
        "+rewards.vowels.kind=function",
        "+rewards.vowels.target=tests.worlds:vowels",
        "+rewards.judge.kind=classifier",
        f"+rewards.judge.path={world['judge']}",
        "palette=custom",
        palette,
        f"output={output}",
        "sampling.max_new_tokens=8",
        *more,
    ]


def entries(cache: Path) -> list[Path]:
    """Entries of a cache of samples and scores, without its locks."""
    return [path for path in cache.iterdir() if not path.name.startswith(".")]


def sweep(folder: Path) -> tuple[Path, list[str]]:
    """(folder of the runs, command) of a sweep over two palettes, and one with a quantile of 2, which is invalid."""
    overrides = own(build(folder / "world"), folder / "runs", *SMALL, palette="palette.name=swept")
    command = ["run", "-m", *overrides, "+palette.quantiles.judge=0.55", "+palette.quantiles.vowels=0.5,2,0.6"]
    return folder / "runs", command
