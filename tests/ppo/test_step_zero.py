"""Truth: the model's own logits with the adapter as PEFT applies it; adapters known to change their base."""

import logging

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PhimoeConfig

from mapft.ppo.policy import switch_off_dropout
from mapft.ppo.step_zero import check_training_mode, moved
from mapft.ppo.trl_seam import fused_log_probs
from mapft.utils.consistency import own_log_probs, padded_log_probs, probe_tokens
from mapft.utils.errors import UserError
from tests import architectures
from tests.ppo import tabular
from tests.ppo.trainers import lora, make_trainer, table_reward


def test_the_fused_head_is_used_where_it_is_exact(tmp_path, caplog):
    assert make_trainer(tmp_path, [table_reward()]).head is fused_log_probs
    assert not caplog.messages


@pytest.mark.parametrize("kind", ["modernbert-decoder", "electra"])
def test_a_head_of_other_form_is_the_models_own_and_said_once(tmp_path, kind, caplog):
    """A layer before the output embeddings; Electra's has another width than the hidden states."""
    architectures.write(kind, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    caplog.set_level(logging.WARNING)
    trainer = make_trainer(tmp_path, [table_reward()], model, LoraConfig(r=4, target_modules="all-linear"))
    assert trainer.head is not fused_log_probs
    assert sum("the model's own head is used" in message for message in caplog.messages) == 1


def test_trained_tokens_of_the_output_embeddings_are_used(tmp_path):
    """PEFT's layer around the output embeddings has not the attributes that the fused head reads."""
    tokens = LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices={"lm_head": [2, 3, 4, 5, 6, 7]})
    trainer = make_trainer(tmp_path, [table_reward()], peft_config=tokens)
    trainer.train()
    trainer.model.eval()
    with trainer.model.disable_adapter():
        base_N = own_log_probs(trainer.model)
    tuned_N = own_log_probs(trainer.model)
    assert (tuned_N - base_N).abs().max() > 0.01
    torch.testing.assert_close(of_responses(tuned_N), padded_log_probs(trainer.model, trainer.head), atol=1e-5, rtol=0)


def of_responses(logp_N):
    """Of the tokens of both sequences, 3 + 4 and 7 + 4, without the first of each."""
    return torch.cat([logp_N[2:6], logp_N[12:16]])


@pytest.mark.filterwarnings("ignore:These settings move PPO's optimum:UserWarning")
@pytest.mark.parametrize("kind", ["llama", "electra"])
def test_temperature_divides_the_logits_of_either_head(tmp_path, kind):
    architectures.write(kind, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    temperature = 0.7
    expected = []
    for ids in probe_tokens(model):
        log_p = (model(input_ids=torch.tensor([ids])).logits[0, :-1] / temperature).log_softmax(-1)
        expected += [log_p[position - 1, ids[position]].item() for position in range(len(ids) - 4, len(ids))]
    lora = LoraConfig(r=4, target_modules="all-linear")
    trainer = make_trainer(tmp_path, [table_reward()], model, lora, temperature=temperature)
    torch.testing.assert_close(padded_log_probs(trainer.model, trainer.head), torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("initialisation", ["pissa", "olora"])
def test_a_new_adapter_that_rewrites_the_base_is_refused(tmp_path, initialisation):
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=initialisation)
    with pytest.raises(UserError, match="Before training, policy and reference differ by .* nats"):
        make_trainer(tmp_path, [table_reward()], peft_config=adapter)


def test_a_start_adapter_that_rewrites_the_base_is_refused(tmp_path):
    """TRL's copy of it, the reference, is initialised on the base that was rewritten already."""
    get_peft_model(tabular.model(), LoraConfig(r=4, init_lora_weights="pissa")).save_pretrained(tmp_path)
    start = PeftModel.from_pretrained(tabular.model(), tmp_path, is_trainable=True)
    with pytest.raises(UserError, match="the reference and the model that was given differ by .* nats"):
        make_trainer(tmp_path, [table_reward()], start, peft_config=None)


@pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers with bias:UserWarning")
def test_trained_biases_of_the_base_are_refused(tmp_path):
    """PEFT leaves them changed when the adapter is switched off."""
    adapter = LoraConfig(r=4, target_modules="all-linear", exclude_modules=["lm_head"], bias="all")
    with pytest.raises(UserError, match="the reference changes with the weights of the adapter by"):
        make_trainer(tmp_path, [table_reward()], tabular.model(architecture="gpt2"), peft_config=adapter)


def test_noise_in_training_mode_is_refused():
    """Experts that are chosen at random in training mode alone."""
    sizes = architectures.SIZES | {"max_position_embeddings": 64}
    names = PhimoeConfig().to_dict()
    config = PhimoeConfig(**{name: size for name, size in sizes.items() if name in names}, input_jitter_noise=0.9)
    with pytest.raises(UserError, match="PhimoeForCausalLM .* log-probabilities in training mode differ by"):
        check_training_mode(AutoModelForCausalLM.from_config(config))
    quiet = tabular.model()  # with dropout
    switch_off_dropout(quiet)
    check_training_mode(quiet)


def test_moved_shows_an_adapter_and_restores_it():
    model = get_peft_model(tabular.model(), lora())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    base_N = own_log_probs(model)
    with moved(model):
        assert (own_log_probs(model) - base_N).abs().mean() > 0.25
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
