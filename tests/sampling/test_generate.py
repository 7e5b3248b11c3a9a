"""Truth: enumeration of the tabular world; the adapter's exact KL."""

import dataclasses

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse, Replace, Sequence, Strip
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from mapft.config import DataConfig, ModelConfig, SamplingConfig, TooLong
from mapft.errors import UserError
from mapft.forward import response_texts
from mapft.sampling.generate import draw, refuse_long, shortened, tokenize
from mapft.sampling.models import TUNED, load_policy
from tests.ppo import tabular

SAMPLING = SamplingConfig(max_new_tokens=tabular.STEPS, batch_size=512)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabular")
    tabular.model().save_pretrained(folder)
    tabular.tokenizer().save_pretrained(folder)
    policy, tokenizer = load_policy(ModelConfig(path=str(folder)))
    return policy, tokenizer, tokenize(tabular.PROMPTS, tokenizer)


def test_samples_follow_p0_whatever_the_models_own_defaults(world):
    """Length and EOS frequencies of 16000 samples within 4 standard errors of the enumerated ones."""
    policy, tokenizer, prompts = world
    table = draw(policy, tokenizer, prompts, SAMPLING, 2000, seed=0)
    assert table.groupby("prompt_id").size().tolist() == [2000] * 8
    p0 = np.exp(tabular.log_probs(tabular.model())).mean(axis=0)
    length = np.array([len(ids) for ids in tabular.responses()])
    finished = np.array([ids[-1] == tabular.EOS for ids in tabular.responses()])
    for column, truth in (("tokens", length), ("finished", finished)):
        mean = (p0 * truth).sum()
        error = np.sqrt((p0 * truth**2).sum() - mean**2) / np.sqrt(16000)
        assert abs(table[column].mean() - mean) < 4 * error


@pytest.mark.parametrize(
    ("how", "expected", "long"),
    [
        (TooLong.stop, ["a", "a b c d", [{"role": "user", "content": "a b c d"}]], 0),
        (TooLong.drop, ["a"], 2),
        (TooLong.cut, ["a", "c d"], 2),
    ],
)
def test_long_prompts_are_kept_dropped_or_cut_on_the_left(world, how, expected, long):
    _, tokenizer, _ = world
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    data = DataConfig(path="x", max_prompt_tokens=2, too_long=how)
    prompts = ["a", "a b c d", [{"role": "user", "content": "a b c d"}]]
    assert shortened(prompts, tokenizer, data) == (expected, long)


def test_responses_keep_the_space_before_them():
    """Under a decoder that strips the beginning of a text, as Llama-2's does."""
    words = Tokenizer(WordLevel({"▁Why": 0, "▁so": 1, "?": 2, "▁Yes": 3, "</s>": 4, "▁": 5}, "?"))
    words.decoder = Sequence([Replace("▁", " "), Fuse(), Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    assert tokenizer.decode([3, 1]) == "Yes so"
    prompts, responses = [[0, 1, 2], [0], [], [0, 4]], [[3, 1, 4], [2], [3], torch.tensor([3])]
    assert response_texts(tokenizer, prompts, responses) == [" Yes so", "?", "Yes", "Yes"]


def test_pickled_weights_are_refused_unless_allowed(tmp_path):
    model = tabular.model()
    model.config.save_pretrained(tmp_path)
    tabular.tokenizer().save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_policy(ModelConfig(path=str(tmp_path)))
    policy, _ = load_policy(ModelConfig(path=str(tmp_path), allow_pickle=True))
    np.testing.assert_allclose(tabular.log_probs(policy), tabular.log_probs(model), atol=1e-6)


def test_same_seed_same_draws_and_another_seed_others(world):
    policy, tokenizer, prompts = world
    first, again, other = (draw(policy, tokenizer, prompts, SAMPLING, 16, seed=s) for s in (0, 0, 1))
    assert first.equals(again)
    assert not first["response"].equals(other["response"])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_measured_kl_is_unbiased(world, temperature):
    """Against the enumerated KL of both policies as sampled: every token's logits divided by the temperature."""
    policy, tokenizer, prompts = world
    sampling = dataclasses.replace(SAMPLING, temperature=temperature)
    torch.manual_seed(0)
    adapted = get_peft_model(
        policy, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False), TUNED
    )
    log_p = tabular.log_probs(adapted.eval(), temperature)
    with adapted.disable_adapter():
        exact = tabular.kl(log_p, tabular.log_probs(adapted, temperature))
    table = draw(adapted, tokenizer, prompts, sampling, 1000, seed=3, measure_kl=True)
    error = table["kl"].std() / np.sqrt(len(table))
    assert exact > 10 * error
    assert abs(table["kl"].mean() - exact) < 4 * error
    adapted.unload()


@pytest.mark.parametrize(
    ("limit", "new_tokens", "words"),
    [
        (3, 3, "A prompt of 4 tokens is longer than data.max_prompt_tokens=3"),
        (512, 14, "longer than the 16 positions of the model less sampling.max_new_tokens=14"),
    ],
)
def test_prompts_that_are_too_long_are_refused(world, limit, new_tokens, words):
    policy, _, prompts = world
    refuse_long(prompts, policy, DataConfig(path="unused.jsonl", max_prompt_tokens=4), SAMPLING)
    data, sampling = DataConfig(path="unused.jsonl", max_prompt_tokens=limit), SamplingConfig(max_new_tokens=new_tokens)
    with pytest.raises(UserError, match=words):
        refuse_long(prompts, policy, data, sampling)


def test_missing_model_folder_is_one_sentence():
    with pytest.raises(UserError, match="model.path=/no/such/model does not exist"):
        load_policy(ModelConfig(path="/no/such/model"))


def test_folder_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no causal language model that loads"):
        load_policy(ModelConfig(path=str(tmp_path)))
