"""Responses of a policy. Truth: enumeration of the tabular world; the exact KL of an adapter."""

import dataclasses

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mapft.config import DataConfig, ModelConfig, SamplingConfig, TooLong
from mapft.planning.memory_tracker import MemoryTracker
from mapft.sampling import responses
from mapft.sampling.models import TUNED, load_policy
from mapft.sampling.prompts import PromptRow
from mapft.sampling.responses import generate
from mapft.sampling.tokens import check_prompt_lengths, shorten_prompts, tokenize
from mapft.utils.errors import UserError
from tests.ppo import tabular

SAMPLING = SamplingConfig(max_new_tokens=tabular.STEPS, batch_size=512)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabular")
    tabular.model().save_pretrained(folder)
    tabular.tokenizer().save_pretrained(folder)
    policy, tokenizer = load_policy(ModelConfig(path=str(folder)))
    return policy, tokenizer, tokenize(tabular.PROMPTS, tokenizer)


def test_samples_follow_p0_and_not_the_generation_defaults_of_the_model(world):
    """Length and EOS frequencies of 16000 samples within 4 standard errors of the enumerated ones."""
    policy, tokenizer, prompts = world
    table = generate(policy, tokenizer, prompts, SAMPLING, 2000, seed=0)
    assert table.groupby("prompt_id").size().tolist() == [2000] * 8
    p0 = np.exp(tabular.log_probs(tabular.model())).mean(axis=0)
    length = np.array([len(ids) for ids in tabular.responses()])
    finished = np.array([ids[-1] == tabular.EOS for ids in tabular.responses()])
    for column, truth in (("tokens", length), ("finished", finished)):
        mean = (p0 * truth).sum()
        error = np.sqrt((p0 * truth**2).sum() - mean**2) / np.sqrt(16000)
        assert abs(table[column].mean() - mean) < 4 * error


@pytest.mark.parametrize(
    ("too_long", "expected", "count"),
    [
        (TooLong.drop, ["a"], 2),
        (TooLong.cut, ["a", "c d"], 2),
    ],
)
def test_long_prompts_are_dropped_or_cut_on_the_left(world, too_long, expected, count):
    _, tokenizer, _ = world
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    data = DataConfig(path="x", max_prompt_tokens=2, too_long=too_long)
    prompts = ["a", "a b c d", [{"role": "user", "content": "a b c d"}]]
    rows, long = shorten_prompts([PromptRow(p, {"answer": n}) for n, p in enumerate(prompts)], tokenizer, data)
    assert ([row.prompt for row in rows], long) == (expected, count)
    assert [row.columns for row in rows] == [{"answer": n} for n in range(len(expected))]


def test_a_text_is_cut_between_characters():
    """The truth: the end of the text with 4 tokens, where a token is a byte and a character 1 to 4 of them."""
    tokenizer = byte_tokenizer()
    data = DataConfig(path="x", max_prompt_tokens=4, too_long=TooLong.cut)
    texts = {"sunny ☀️🌞": "🌞", "what é": "t é", "ab   cde": "cde", "🌞🌞": "🌞", "abcd": "abcd"}
    rows, long = shorten_prompts([PromptRow(text) for text in texts], tokenizer, data)
    assert ([row.prompt for row in rows], long) == (list(texts.values()), 4)


def byte_tokenizer():
    raw = Tokenizer(models.BPE(vocab={byte: n for n, byte in enumerate(ByteLevel.alphabet())}, merges=[]))
    raw.pre_tokenizer, raw.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def test_the_seed_determines_the_responses(world):
    policy, tokenizer, prompts = world
    first, again, other = (generate(policy, tokenizer, prompts, SAMPLING, 16, seed=s) for s in (0, 0, 1))
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
    table = generate(adapted, tokenizer, prompts, sampling, 1000, seed=3, measure_kl=True)
    error = table["kl"].std() / np.sqrt(len(table))
    assert exact > 10 * error
    assert abs(table["kl"].mean() - exact) < 4 * error
    adapted.unload()


@pytest.mark.parametrize("limit", [0, 2**16])
def test_the_logits_of_a_pass_are_bounded(monkeypatch, limit):
    """16 responses of 32 tokens, vocabulary 4096: 32 x 4096 logits are .52 MB a row, so one row fits in a pass."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    policy = get_peft_model(
        LlamaForCausalLM(LlamaConfig(vocab_size=4096, **sizes)), LoraConfig(target_modules=["q_proj"])
    )
    tokens = {"prompt_ids": torch.randint(0, 4096, (16, 8)), "completion_ids": torch.randint(0, 4096, (16, 32))}
    tokens |= {"prompt_mask": torch.ones(16, 8).long(), "mask": torch.ones(16, 32).long()}
    expected = responses.log_prob(policy, tokens)
    monkeypatch.setattr(responses, "LOGITS_BYTES", limit)
    with MemoryTracker() as tracker:
        log_p = responses.log_prob(policy, tokens)
    assert tracker.peak < 5 * 32 * 4096 * 4  # four copies; two rows would be eight
    torch.testing.assert_close(log_p, expected)


@pytest.mark.parametrize(
    ("limit", "new_tokens", "message"),
    [
        (3, 3, "A prompt of 4 tokens is longer than data.max_prompt_tokens=3"),
        (512, 14, "longer than the 16 positions of the model minus sampling.max_new_tokens=14"),
    ],
)
def test_prompts_that_are_too_long_are_rejected(world, limit, new_tokens, message):
    policy, _, prompts = world
    check_prompt_lengths(prompts, policy, DataConfig(path="unused.jsonl", max_prompt_tokens=4), SAMPLING)
    data, sampling = DataConfig(path="unused.jsonl", max_prompt_tokens=limit), SamplingConfig(max_new_tokens=new_tokens)
    with pytest.raises(UserError, match=message):
        check_prompt_lengths(prompts, policy, data, sampling)
