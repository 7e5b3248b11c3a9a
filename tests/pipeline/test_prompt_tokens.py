"""The tokens of a prompt in every stage. Truth: prompts.parquet, and a template that never gives the same twice."""

import json

import pandas as pd
import pytest
from transformers import AutoTokenizer

from mapft.cli import main
from mapft.ppo.replay import read_groups
from mapft.rewards.score import OWN_COLUMNS
from tests import worlds
from tests.worlds import SMALL, own

TEMPLATE = (
    "{{ strftime_now('%S%f') }}{% for m in messages %}{{ m.day }}{{ m.city is defined }}{{ m.content }}{% endfor %}"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Messages, half of which have a key that the others lack, for a chat template that has the time."""
    paths = worlds.build(tmp_path_factory.mktemp("world"))
    tokenizer = AutoTokenizer.from_pretrained(paths["model"])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(paths["model"])
    keys = [{"day": "x"}, {"city": "y"}]
    messages = [[{"role": "user", "content": text} | keys[n % 2]] for n, text in enumerate(worlds.PROMPTS)]
    paths["prompts"].write_text("".join(json.dumps({"question": prompt}) + "\n" for prompt in messages))
    return paths


def test_every_stage_uses_the_tokens_that_were_made_first(world, tmp_path):
    arguments = own(world, tmp_path / "runs", *SMALL, "evaluation.bootstrap=100", "trainer.replay_batch=8")
    arguments += ["trainer.num_generations=2"]
    assert main(["run", *arguments, "+evaluation.policies.decoding={candidates: 2}"]) == 0
    assert main(["decode", *arguments, "decoding.candidates=2"]) == 0
    [folder] = (tmp_path / "runs").glob("run-*")
    prompts = pd.read_parquet(folder / "prompts.parquet")
    tokens = {side: {tuple(ids) for ids in rows["token_ids"]} for side, rows in prompts.groupby("held_out")}
    assert len(tokens[False] | tokens[True]) == len(worlds.PROMPTS)
    tokenizer = AutoTokenizer.from_pretrained(world["model"])
    rendered = {
        tokenizer.decode(ids)[8:].replace(text, "") for ids, text in prompts[["token_ids", "prompt"]].to_numpy()
    }
    assert rendered == {"xFalse", "True"}  # neither has the key of the other
    samples = pd.read_parquet(folder / "samples.parquet")
    assert {tuple(ids) for ids in samples["prompt_token_ids"]} == tokens[False]
    stored = read_groups(folder / "replay.pt", ["vowels"])
    assert len(stored) > len(tokens[False])  # those of the pilot and of the rollouts
    assert {tuple(group.prompt_ids) for group in stored} == tokens[False]
    for policy in ("base", "tuned", "decoding"):
        table = pd.read_parquet(folder / f"evaluation_{policy}.parquet")
        assert {tuple(ids) for ids in table["prompt_token_ids"]} == tokens[True]
    [decoded] = folder.glob("decoded-*.jsonl")
    rows = [json.loads(line) for line in decoded.read_text().splitlines()]
    assert {tuple(row["prompt_token_ids"]) for row in rows} == tokens[True]
    for path in [*folder.glob("samples.parquet"), *folder.glob("evaluation_*.parquet")]:
        assert set(pd.read_parquet(path)) - {"vowels", "judge"} <= set(OWN_COLUMNS)
    assert set(rows[0]) - {"vowels", "judge"} <= set(OWN_COLUMNS)
    assert main(["sample", *arguments, "seed=1"]) == 0  # the other run finds them in the cache
    [other] = set((tmp_path / "runs").glob("run-*")) - {folder}
    assert (other / "prompts.parquet").read_bytes() == (folder / "prompts.parquet").read_bytes()
