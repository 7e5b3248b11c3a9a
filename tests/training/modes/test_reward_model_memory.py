"""Truth: the kernel's peak of a process's resident set."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertConfig, BertForSequenceClassification

from tests import worlds

WORKER = """
import json, sys, torch
from mapft.cli import main
from mapft.utils.device import peak_gb
code = main(sys.argv[1:])
print(json.dumps({"code": code, "peak": peak_gb(torch.device("cpu")) * 1e9}))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A reward model of 115 MB, mostly embeddings of unused tokens, beside a policy of 1 MB."""
    folder = tmp_path_factory.mktemp("world")
    paths = worlds.build(folder)
    wide = BertConfig.from_pretrained(paths["judge"], hidden_size=512, vocab_size=56_000)
    judge = BertForSequenceClassification(wide)
    judge.save_pretrained(paths["judge"])
    return paths | {"bytes": 4 * judge.num_parameters()}


def peak(world, folder: Path, values: int, *mode: str) -> int:
    """Bytes, of training with so many values, all scored by classifiers of one size."""
    overrides = ["experiment=own", f"model.path={world['model']}", f"data.path={world['prompts']}"]
    overrides += ["data.column=question", "rewards=[]", "palette=custom", f"run_dir={folder}", f"output={folder}-store"]
    for name in "abcdef"[:values]:
        overrides += [f"+rewards.{name}.kind=classifier", f"+rewards.{name}.path={world['judge']}"]
        overrides += [f"+rewards.{name}.template='{name} {{prompt}}{{response}}'", f"+palette.sd.{name}=0.05"]
    overrides += [
        "sampling.max_new_tokens=8",
        "sampling.samples_per_prompt=4",
        "trainer.per_device_train_batch_size=8",
        "trainer.total_episodes=32",
        "dual.if_infeasible=nearest",
    ]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, "train", *overrides, *mode], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["code"] == 0, done.stderr[-2000:]
    return measured["peak"]


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_number_of_values(world, tmp_path):
    """Sequential mode with 2 and with 6 values; resident models, for comparison, take 4 more models."""
    sequential = [
        "mode=sequential",
        "mode.rounds=1",
        "mode.visit_episodes=32",
        "mode.tolerance=0",
        "mode.smallest_step=0",
    ]
    two = peak(world, tmp_path / "two", 2, *sequential)
    six = peak(world, tmp_path / "six", 6, *sequential)
    assert six - two < world["bytes"]
    resident = [peak(world, tmp_path / f"resident-{n}", n, "mode.reward_models=resident") for n in (2, 6)]
    assert resident[1] - resident[0] > 2 * world["bytes"]
    visits = json.loads((tmp_path / "six" / "sequential.json").read_text())["visits"]
    assert [visit["value"] for visit in visits] == list("abcdef")
