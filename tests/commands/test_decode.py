"""`mapft decode`. Truth: an uninterrupted command, and the limits of decoding."""

import json
import re

import pytest

from mapft.cli import main
from tests import worlds
from tests.worlds import own


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def test_decoding_streams_resumes_and_warns_when_candidates_are_too_few(world, tmp_path, capfd):
    arguments = ["decode", *own(world, tmp_path, "decoding.candidates=4", "sampling.batch_size=8")]
    assert main(arguments) == 0
    printed = capfd.readouterr().out
    assert "responses to" in printed
    [path] = tmp_path.glob("run-*/decoded-sample-4-*.jsonl")
    whole = path.read_text("utf-8").splitlines(keepends=True)
    rows = [json.loads(line) for line in whole]
    assert [row["prompt_id"] for row in rows] == list(range(len(rows)))
    assert {"prompt", "response", "vowels", "judge", "ess", "kl", "candidates"} <= set(rows[0])
    path.write_text("".join(whole[:3]) + whole[3][:20], "utf-8")
    assert main(arguments) == 0
    assert path.read_text("utf-8").splitlines(keepends=True) == whole
    (tmp_path / "one.jsonl").write_text(json.dumps({"question": "Why is it so quiet?"}) + "\n")
    one = [f"decoding.prompts={tmp_path / 'one.jsonl'}", "decoding.samples_per_prompt=3", "decoding.choose=best"]
    capfd.readouterr()
    assert main([*arguments, *one, "palette.quantiles.vowels=0.95", "decoding.candidates=2"]) == 0
    assert re.search(r"needs a KL of [0-9.]+ nats, .* use \d+ candidates or more", capfd.readouterr().out)
    [path] = tmp_path.glob("run-*/decoded-best-2-*.jsonl")
    assert [json.loads(line)["prompt"] for line in path.read_text().splitlines()] == ["Why is it so quiet?"] * 3
    assert main([*arguments, "decoding.adapter=/no/such", "decoding.candidates=3"]) == 2
    assert "decoding.adapter=/no/such does not exist" in capfd.readouterr().err
    assert main([*arguments, "decoding.adapter=x", "decoding.choose=best"]) == 2
    assert "decoding.choose=best is invalid; it must be sample with an adapter" in capfd.readouterr().err
    assert main([*arguments, "decoding.choose=rejection"]) == 2
    assert "vowels has none; set choose=sample" in capfd.readouterr().err
    (tmp_path / "long.jsonl").write_text(json.dumps({"question": "Why is it so quiet? " * 30}) + "\n")
    assert main([*arguments, f"decoding.prompts={tmp_path / 'long.jsonl'}"]) == 2
    assert "longer than the 64 positions of the model" in capfd.readouterr().err
