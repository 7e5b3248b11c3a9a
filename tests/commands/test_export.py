"""`mapft export`. Truth: base and adapter loaded by PEFT alone."""

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from mapft.cli import main
from mapft.commands.export import write_merged
from mapft.config import ModelConfig
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


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize("layers", [["wte", "c_attn"], ["c_attn"]])
def test_tied_embeddings_with_an_adapter_are_untied(world, tmp_path, layers):
    """GPT-2's output embeddings are its input embeddings, which the adapter changes for the input alone."""
    base = AutoModelForCausalLM.from_pretrained(world["model"])
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules=layers, task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in filter(lambda w: w.requires_grad, tuned.parameters()):
            weight.normal_(std=0.3)
    tuned.save_pretrained(tmp_path / "adapter")
    model = ModelConfig(path=str(world["model"]))
    write_merged(model, tmp_path / "adapter", tmp_path / "merged")
    ids = torch.arange(5, 25)[None]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, tuned.eval()(ids).logits, atol=1e-4, rtol=1e-4)
    assert merged.config.tie_word_embeddings is ("wte" not in layers)
