"""The adapter of a run. Truth: PEFT's modules; what a run refuses leaves no pilot behind; base and adapter by PEFT."""

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from mapft.cli import main
from mapft.config import AdapterConfig, ModelConfig
from mapft.training.adapter import check_trainable, lora_config
from mapft.utils.errors import UserError
from tests import architectures, worlds
from tests.configs import make_config
from tests.worlds import SMALL, own


def trainable(folder, target_modules="all-linear", adapter=None):
    model = ModelConfig(path=str(folder), adapter=adapter)
    check_trainable(make_config(model=model, adapter=AdapterConfig(target_modules=target_modules)))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "electra", "gpt_neox"])
def test_the_default_is_every_linear_layer_but_the_head_without_dropout(tmp_path, kind):
    architectures.write(kind, tmp_path)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path), lora_config(make_config()))
    wrapped = {name for name, module in tuned.named_modules() if hasattr(module, "lora_A")}
    linear = {name.removesuffix(".base_layer") for name, m in tuned.named_modules() if type(m).__name__ in LINEAR}
    head = [name for name, module in tuned.named_modules() if module is tuned.get_output_embeddings()]
    assert wrapped
    assert {n for n in linear if ".lora_" not in n} - wrapped == set(head)
    assert all(isinstance(m, torch.nn.Identity) for n, m in tuned.named_modules() if n.endswith("lora_dropout.default"))


LINEAR = ("Linear", "Conv1D")


def test_layers_that_peft_refuses_are_one_sentence_before_the_pilot(tmp_path, capfd):
    world = worlds.build(tmp_path / "world")
    architectures.write("mamba", tmp_path / "mamba")
    overrides = own(world, tmp_path, *SMALL, f"model.path={tmp_path / 'mamba'}", f"run_dir={tmp_path / 'run'}")
    for command in ("run", "train", "evaluate", "compare", "export"):
        assert main([command, *overrides]) == 2
        sentence = capfd.readouterr().err
        assert "adapter.target_modules=all-linear does not fit" in sentence
        assert "(dt_proj, in_proj, lm_head, out_proj, x_proj)" in sentence
    assert not (tmp_path / "run" / "samples.parquet").exists()
    trainable(tmp_path / "mamba", ".*(in_proj|x_proj)")


@pytest.mark.parametrize(
    ("target_modules", "reason"),
    [
        (".*lm_head", "TRL does not train an adapter of the output embeddings"),
        ("nothing", "Target modules nothing"),
    ],
)
def test_layers_that_cannot_be_trained_are_one_sentence(tmp_path, target_modules, reason):
    architectures.write("llama", tmp_path)
    with pytest.raises(UserError, match=rf"adapter.target_modules={target_modules} does not fit .* \({reason}"):
        trainable(tmp_path, target_modules)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_a_start_adapter_that_cannot_be_trained_is_one_sentence(tmp_path):
    architectures.write("llama", tmp_path / "model")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    adapter = str(tmp_path / "adapter")
    get_peft_model(base, LoraConfig(target_modules=["lm_head"])).save_pretrained(adapter)
    with pytest.raises(UserError, match=r"model.adapter=.* does not fit .* \(TRL does not train"):
        trainable(tmp_path / "model", adapter=adapter)


def test_an_adapter_that_is_lost_when_saved_is_one_sentence(tmp_path):
    """PEFT renames the weights of Laguna's shared experts when it reads them."""
    architectures.write("laguna", tmp_path)
    with pytest.raises(UserError, match="does not fit .* missing adapter keys"):
        trainable(tmp_path)


def test_an_adapter_loads_from_every_folder(tmp_path, monkeypatch):
    """With model.path and model.adapter relative to the folder of the command."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MAPFT_TRUST", "tests")  # not in the current folder
    worlds.build(tmp_path / "here")
    world = {"model": "policy", "judge": "judge", "prompts": "prompts.jsonl"}
    assert main(["train", *own(world, tmp_path, *SMALL, "run_dir=first")]) == 0
    assert main(["train", *own(world, tmp_path, *SMALL, "run_dir=second", "model.adapter=first/adapter")]) == 0
    monkeypatch.chdir(tmp_path / "there")
    for run in ("first", "second"):
        model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "here" / run / "adapter")
        assert model.peft_config["default"].base_model_name_or_path == str(tmp_path / "here" / "policy")
