"""Loading a policy, a tokenizer and adapters. Truth: the tabular world; folders in which a part is missing; base and
adapter as PEFT loads them; adapters that change their base.
"""

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from mapft.config import ModelConfig
from mapft.sampling.models import base_policy_active, load_adapter, load_policy, load_tokenizer
from mapft.utils.errors import UserError
from tests.ppo import tabular


def test_pickled_weights_are_rejected_unless_allowed(tmp_path):
    model = tabular.model()
    model.config.save_pretrained(tmp_path)
    tabular.tokenizer().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_policy(ModelConfig(path=str(tmp_path)))
    policy, _ = load_policy(ModelConfig(path=str(tmp_path), allow_pickle=True))
    np.testing.assert_allclose(tabular.log_probs(policy), tabular.log_probs(model), atol=1e-6)


def test_a_missing_folder_is_one_sentence():
    with pytest.raises(UserError, match="model.path=/no/such/model does not exist"):
        load_policy(ModelConfig(path="/no/such/model"))


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded as a causal language model"):
        load_policy(ModelConfig(path=str(tmp_path)))


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    tabular.model().save_pretrained(folder)
    tabular.tokenizer().save_pretrained(folder)
    return folder


def save_adapter(base, folder, config=None, std=0.3) -> np.ndarray:
    """An adapter of random weights; returns its log p of every response, computed before it is saved."""
    config = config or LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in filter(lambda w: w.requires_grad, tuned.parameters()):
            weight.add_(std * torch.randn(weight.shape))
    tuned.save_pretrained(folder)
    return tabular.log_probs(tuned.eval())


def test_a_start_adapter_is_p0_and_a_runs_adapter_leaves_it(tmp_path, base):
    start = save_adapter(base, tmp_path / "start")
    config = ModelConfig(path=str(base), adapter=str(tmp_path / "start"))
    policy, _ = load_policy(config)
    np.testing.assert_allclose(tabular.log_probs(policy), start, atol=1e-5)
    assert tabular.kl(start, tabular.log_probs(tabular.model())) > 0.05
    with base_policy_active(policy):
        np.testing.assert_allclose(tabular.log_probs(policy), tabular.log_probs(tabular.model()), atol=1e-5)
    other = save_adapter(base, tmp_path / "tuned", LoraConfig(r=2, target_modules=["k_proj"], task_type="CAUSAL_LM"))
    tuned = load_adapter(policy, tmp_path / "tuned")
    np.testing.assert_allclose(tabular.log_probs(tuned), other, atol=1e-5)
    with base_policy_active(tuned):
        np.testing.assert_allclose(tabular.log_probs(tuned), start, atol=1e-5)


def test_an_adapters_folder_is_no_model_path(tmp_path, base):
    save_adapter(base, tmp_path / "adapter")
    with pytest.raises(UserError, match=f"is an adapter of {base}, .* set model.path={base} and model.adapter="):
        load_policy(ModelConfig(path=str(tmp_path / "adapter")))


def test_a_start_adapter_brings_its_tokenizer(tmp_path, base):
    """EOS and chat template are those it was trained with; one without a tokenizer keeps the base's."""
    save_adapter(base, tmp_path / "start")
    config = ModelConfig(path=str(base), adapter=str(tmp_path / "start"))
    assert load_tokenizer(config).eos_token == "<eos>"
    own = tabular.tokenizer()
    own.eos_token, own.chat_template = "f", "{{ messages }}"
    own.save_pretrained(tmp_path / "start")
    policy, tokenizer = load_policy(config)
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("f", "{{ messages }}")
    assert policy.generation_config.eos_token_id == [tokenizer.eos_token_id, tabular.EOS]


def test_an_adapter_that_is_no_name_of_the_hub_is_one_sentence(base):
    """Names on the Hub have one slash."""
    with pytest.raises(UserError, match="model.adapter=a/b/c cannot be loaded as an adapter of the model"):
        load_policy(ModelConfig(path=str(base), adapter="a/b/c"))


REWRITES = {
    "pissa": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM"),
    "bias": LoraConfig(r=4, target_modules=["c_attn"], bias="all", task_type="CAUSAL_LM"),
}


@pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers with bias:UserWarning")
@pytest.mark.parametrize(("kind", "architecture"), [("pissa", "llama"), ("bias", "gpt2")])
def test_an_adapter_that_changes_its_base_is_refused_at_every_door(tmp_path, kind, architecture):
    base = tmp_path / "base"
    tabular.model(architecture=architecture).save_pretrained(base)
    tabular.tokenizer().save_pretrained(base)
    save_adapter(base, tmp_path / "adapter", REWRITES[kind])
    plain = LoraConfig(r=4, target_modules=REWRITES[kind].target_modules, task_type="CAUSAL_LM")
    save_adapter(base, tmp_path / "start", plain)
    config, start = ModelConfig(path=str(base)), str(tmp_path / "start")
    with pytest.raises(UserError, match=f"model.adapter={tmp_path}/adapter changes the weights of its base .* nats"):
        load_policy(ModelConfig(path=str(base), adapter=str(tmp_path / "adapter")))
    with pytest.raises(UserError, match=f"{tmp_path}/adapter changes the weights of its base .* nats"):
        load_adapter(load_policy(config)[0], tmp_path / "adapter")
    with pytest.raises(UserError, match="adapter"):
        load_adapter(load_policy(ModelConfig(path=str(base), adapter=start))[0], tmp_path / "adapter")


def test_an_adapter_of_another_architecture_is_refused(tmp_path, base):
    """PEFT warns and leaves its layers at zero."""
    deeper = tabular.model()
    torch.manual_seed(1)
    tuned = get_peft_model(deeper, LoraConfig(r=4, target_modules=["q_proj"], layers_to_transform=[0]))
    tuned.peft_config["default"].layers_to_transform = None
    tuned.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="cannot be loaded as an adapter of the model: .*Found missing adapter keys"):
        load_adapter(load_policy(ModelConfig(path=str(base)))[0], tmp_path / "adapter")
    save_adapter(base, tmp_path / "start")
    policy, _ = load_policy(ModelConfig(path=str(base), adapter=str(tmp_path / "start")))
    with pytest.raises(UserError, match="cannot be loaded as an adapter of the model: .*Found missing adapter keys"):
        load_adapter(policy, tmp_path / "adapter")


def test_soft_prompts_are_refused(tmp_path, base):
    save_adapter(base, tmp_path / "adapter", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(UserError, match="adds tokens before the prompt"):
        load_adapter(load_policy(ModelConfig(path=str(base)))[0], tmp_path / "adapter")
