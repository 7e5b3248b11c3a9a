"""What scores read of special tokens, in every stage. Truth: the texts of all responses of 1 to 3 tokens, by hand."""

import itertools
import json
import os
import zlib
from pathlib import Path

import pandas as pd
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mapft.cli import main
from mapft.ppo import trl_seam
from mapft.ppo.replay import read_groups
from tests import worlds
from tests.ppo import tabular
from tests.worlds import SMALL, own

WORDS = ["<pad>", "<eos>", "<|turn|>", "<think>", "</think>", "a", "b", "f"]  # the first three are special
PROMPTS = [" ".join(("f", *words)) for length in (1, 2, 3) for words in itertools.product("ab", repeat=length)]
SCORE = ["rewards.vowels.target=tests.pipeline.test_special_tokens:recorded", "sampling.max_new_tokens=3"]
THINKING = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|turn|>",
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>", "content": "text"},
        "content": {"content": "text"},
    },
}  # TRL parses the responses to messages by it, where a tokenizer has one


def recorded(prompts, completions, **_):
    """A number that the text determines; the texts are written down in $ASKED."""
    with Path(os.environ["ASKED"]).open("a") as file:
        file.write("".join(json.dumps(text) + "\n" for text in completions))
    return [number_of(text) for text in completions]


def number_of(text):
    return zlib.crc32(text.encode()) / 2**32


def text_of(ids, lead):
    """The words that are not special. lead: what stands between prompt and response."""
    words = [WORDS[token] for token in ids if token > 2]
    return lead * bool(words) + " ".join(words)


@pytest.fixture(scope="module", params=["texts", "messages"])
def world(request, tmp_path_factory):
    """A policy of 8 tokens, and what stands between prompt and response: a space, or a special token of the chat."""
    folder = tmp_path_factory.mktemp("world")
    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", extra_special_tokens=["<|turn|>"]
    )
    tokenizer.add_tokens([AddedToken(word, special=False) for word in ("<think>", "</think>")])
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} <|turn|>{% endfor %}"
    tokenizer.response_template = THINKING
    tokenizer.save_pretrained(folder / "tabular")
    tabular.model().save_pretrained(folder / "tabular")
    paths = worlds.build(folder) | {"model": folder / "tabular"}
    chat = request.param == "messages"
    rows = [[{"role": "user", "content": prompt}] if chat else prompt for prompt in PROMPTS]
    paths["prompts"].write_text("".join(json.dumps({"question": row}) + "\n" for row in rows))
    return paths, "" if chat else " "


def test_every_stage_scores_the_same_text(world, tmp_path, monkeypatch):
    paths, lead = world
    asked = tmp_path / "asked.jsonl"
    monkeypatch.setenv("ASKED", str(asked))
    possible = {
        text_of(ids, lead) for n in range(1, 4) for ids in itertools.product(range(8), repeat=n) if 1 not in ids[:-1]
    }

    def texts():
        read = {json.loads(line) for line in asked.read_text().splitlines()}
        asked.unlink()
        return read

    more = [*SMALL, *SCORE, "evaluation.bootstrap=100"]
    arguments = own(paths, tmp_path / "runs", *more, palette="+palette.sd.vowels=0.5")
    assert main(["score", *arguments]) == 0
    [folder] = (tmp_path / "runs").glob("run-*")
    samples, scores = pd.read_parquet(folder / "samples.parquet"), pd.read_parquet(folder / "scores.parquet")
    by_hand = [text_of(ids, lead) for ids in samples["response_token_ids"]]
    assert samples["response"].tolist() == by_hand
    assert scores["vowels"].tolist() == [number_of(text) for text in by_hand]
    assert {2, 3, 4} <= {token for ids in samples["response_token_ids"] for token in ids}
    assert texts() == set(by_hand)
    assert main(["train", *arguments]) == 0
    stored = read_groups(folder / "replay.pt", ["vowels"])
    responses = [pair for group in stored for pair in zip(group.completion_ids, group.scores, strict=True)]
    assert len(responses) > len(samples)  # those of the pilot and of the rollouts
    for ids, [score] in responses:
        assert score == pytest.approx(number_of(text_of(ids, lead)), abs=1e-6)
    assert texts() <= possible
    for command in (
        ["evaluate", *arguments, "+evaluation.policies.wide={candidates: 2}"],
        ["decode", *arguments, "decoding.candidates=2"],
        ["train", *arguments, "mode=sequential", "mode.rounds=1", "mode.visit_episodes=32", "mode.smallest_step=0"],
    ):
        assert main(command) == 0
        read = texts()
        assert read <= possible, command[0]
        assert any("<think>" in text for text in read), command[0]


def test_dpo_trains_on_the_tokens_of_the_pilot(world, tmp_path, monkeypatch):
    paths, _ = world
    monkeypatch.setenv("ASKED", str(tmp_path / "asked.jsonl"))
    given = []

    class Watched(trl_seam.TokenDPOTrainer):
        def get_train_dataloader(self):
            given.extend(self.train_dataset.to_list())
            return super().get_train_dataloader()

    monkeypatch.setattr(trl_seam, "TokenDPOTrainer", Watched)
    arguments = own(paths, tmp_path / "runs", *SMALL, *SCORE, "mode=dpo", palette="+palette.sd.vowels=0.5")
    assert main(["train", *arguments]) == 0
    [folder] = (tmp_path / "runs").glob("run-*")
    samples = pd.read_parquet(folder / "samples.parquet")
    ids = zip(samples["prompt_token_ids"], samples["response_token_ids"], strict=True)
    pairs = {(tuple(prompt), tuple(response)) for prompt, response in ids}
    assert len(given) == 64
    for row in given:
        assert {(tuple(row["prompt_ids"]), tuple(row[name])) for name in ("chosen_ids", "rejected_ids")} <= pairs
    assert any(2 in row["chosen_ids"] for row in given)
