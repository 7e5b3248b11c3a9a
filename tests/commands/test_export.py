"""`mapft export`. Truth: base and adapter loaded by PEFT alone."""

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from mapft.cli import main
from tests import worlds
from tests.worlds import SMALL, own


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.build(tmp_path_factory.mktemp("world"))


def test_export_writes_a_merged_model_and_cards(world, tmp_path, capfd):
    """The merged model's logits are those of base and adapter loaded by PEFT alone."""
    overrides = own(world, tmp_path, *SMALL, f"run_dir={tmp_path / 'run'}", "trainer.learning_rate=3e-3")
    assert main(["export", *overrides]) == 0
    evaluated = (tmp_path / "run" / "evaluation.json").stat().st_mtime_ns
    assert main(["export", *overrides]) == 0
    assert (tmp_path / "run" / "evaluation.json").stat().st_mtime_ns == evaluated
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "merged").eval()(ids).logits
        apart = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "adapter").eval()(ids).logits
        base = AutoModelForCausalLM.from_pretrained(world["model"]).eval()(ids).logits
    torch.testing.assert_close(whole, apart, atol=1e-4, rtol=1e-4)
    assert (whole - base).abs().max() > 1e-3
    summary = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    # a run that starts from this adapter finds itself again after another export
    start = [*overrides[:-2], f"model.adapter={tmp_path / 'run' / 'adapter'}", f"run_dir={tmp_path / 'next'}"]
    assert main(["sample", *start]) == 0
    assert main(["export", *overrides]) == 0
    assert main(["sample", *start]) == 0
    for folder, library in (("adapter", "peft"), ("merged", "transformers")):
        card = (tmp_path / "run" / folder / "README.md").read_text()
        assert f"library_name: {library}" in card
        assert f"{summary['values']['vowels']['realized']['mean']:.4g}" in card
        assert f"{summary['lam']['vowels']:.4g}" in card
    capfd.readouterr()
    assert main(["export", *overrides[:-2], f"run_dir={tmp_path / 'q'}", "model.quantization=nf4"]) == 2
    assert "cannot be merged into a quantized base" in capfd.readouterr().err
    assert not (tmp_path / "q" / "samples.parquet").exists()
