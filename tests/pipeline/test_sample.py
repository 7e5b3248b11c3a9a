"""Models, tokenizers and scores that cannot work. Truth: one sentence with the cause, exit code 2, and no samples."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from mapft.cli import main
from tests import worlds
from tests.worlds import SMALL, own


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def config(**changes):
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def weight(name, auto=AutoModelForCausalLM):
    def edit(folder: Path) -> None:
        model = auto.from_pretrained(folder)
        with torch.no_grad():
            model.get_parameter(name)[0, 0] = float("nan")
        model.save_pretrained(folder)

    return edit


def words(change):
    def edit(folder: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        change(tokenizer)
        tokenizer.save_pretrained(folder)

    return edit


def torn(folder: Path) -> None:
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:500])


def template(text):
    return words(lambda tokenizer: setattr(tokenizer, "chat_template", text))


PAD = words(lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "<pad>"}))
ADDED = words(lambda tokenizer: tokenizer.add_tokens(["bicycle"]))
POLICIES = [
    (
        weight("transformer.h.1.mlp.c_fc.weight"),
        "has weights that are not finite numbers (transformer.h.1.mlp.c_fc.wei",
    ),
    (config(vocab_size=100), "transformer.wte.weight has the shape [320, 64], and the config needs [100, 64]"),
    (config(n_head=7), "cannot be loaded as a causal language model: `embed_dim` must be divisible by num_heads"),
    (torn, "cannot be loaded: Expecting property name"),
    (PAD, "has 320 tokens, and its padding token has the id 320"),
    (ADDED, "has 320 tokens, and a token of the prompt 'Tell me about an old bicycle.' has the id 320"),
    (
        template("{{ raise_exception('Only users speak') }}"),
        "cannot be tokenized by {folder}: TemplateError: Only users",
    ),
    (template("{% for %}"), "cannot be tokenized by {folder}: TemplateSyntaxError: Expected an expression"),
]
JUDGES = [
    (weight("classifier.weight", AutoModelForSequenceClassification), "has weights that are not finite numbers (class"),
    (config(vocab_size=100), "has the shape [320, 32], and the config needs [100, 32]"),
    (torn, "cannot be loaded as a classifier: Expecting property name"),
    (PAD, "has 320 tokens, and its padding token has the id 320"),
    (ADDED, "has 320 tokens, and a token has the id 320"),
]


def refused(world, tmp_path, capfd, *overrides: str) -> str:
    """The one sentence on stderr of a run that is refused before it samples."""
    assert main(["run", *own(world, tmp_path / "runs", *SMALL), *overrides]) == 2
    told = capfd.readouterr()
    assert "sampling" not in told.out
    [sentence] = [line for line in told.err.splitlines() if line.startswith("mapft: ")]
    return sentence


@pytest.mark.parametrize(("edit", "cause"), POLICIES)
def test_a_policy_that_cannot_work(world, tmp_path, capfd, edit, cause):
    folder = tmp_path / "model"
    shutil.copytree(world["model"], folder)
    edit(folder)
    sentence = refused(world, tmp_path, capfd, f"model.path={folder}", f"data.as_chat={'{folder}' in cause}".lower())
    assert cause.format(folder=folder) in sentence


@pytest.mark.parametrize(("edit", "cause"), JUDGES)
def test_a_reward_model_that_cannot_work(world, tmp_path, capfd, edit, cause):
    folder = tmp_path / "judge"
    shutil.copytree(world["judge"], folder)
    edit(folder)
    sentence = refused(world, tmp_path, capfd, f"rewards.judge.path={folder}")
    assert sentence.startswith(f"mapft: rewards.judge.path={folder} ")
    assert cause in sentence


def test_a_function_that_cannot_be_loaded(world, tmp_path, capfd):
    sentence = refused(world, tmp_path, capfd, "rewards.vowels.target=tests.worlds:consonants")
    assert "rewards.vowels.target=tests.worlds:consonants cannot be imported (AttributeError: module" in sentence
