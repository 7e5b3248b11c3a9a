"""Generation in parts. Truth: responses, random state and training of the complete batch; a limit of the system."""

import json
import logging
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model

from mapft.config import ModelConfig, SamplingConfig
from mapft.sampling import responses
from mapft.sampling.models import TUNED, load_policy
from mapft.sampling.responses import generate
from mapft.sampling.tokens import tokenize
from mapft.utils.oom import OomRetry
from tests.ppo import tabular
from tests.ppo.trainers import make_trainer, table_reward

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def world(tmp_path):
    tabular.model().save_pretrained(tmp_path)
    tabular.tokenizer().save_pretrained(tmp_path)
    policy, tokenizer = load_policy(ModelConfig(path=str(tmp_path)))
    return policy, tokenizer, tokenize(tabular.PROMPTS, tokenizer)


def limit(model, rows: int) -> list[int]:
    """From now on generation for more than `rows` rows is out of memory; returns the sizes that were tried."""
    sizes: list[int] = []
    original = model.generate

    def limited(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"] if "input_ids" in kwargs else args[0]))
        sequences = original(*args, **kwargs)
        if sizes[-1] > rows:  # after random numbers were used, as memory runs out in the middle
            raise OUT_OF_MEMORY
        return sequences

    model.generate = limited
    return sizes


def test_a_batch_is_generated_in_parts_of_the_given_size(world, caplog):
    """160 responses in batches of 100: parts of 33, and progress after each."""
    policy, tokenizer, prompts = world
    sampling = SamplingConfig(max_new_tokens=3, batch_size=100)
    complete = generate(policy, tokenizer, prompts, sampling, 20, seed=3)
    sizes, progress = limit(policy, 100), []
    sampling = replace(sampling, micro_batch_size=33)
    parts = generate(policy, tokenizer, prompts, sampling, 20, 3, lambda *update: progress.append(update))
    assert sizes == [33, 33, 33, 1, 33, 27]
    assert progress == [(done, 160) for done in (0, 33, 66, 99, 100, 133, 160)]
    pd.testing.assert_frame_equal(parts, complete)
    assert not caplog.records


@pytest.mark.parametrize("rows", [100, 33, 1])
def test_parts_generate_the_responses_of_the_complete_batch(world, rows, caplog):
    policy, tokenizer, prompts = world
    sampling = SamplingConfig(max_new_tokens=3, batch_size=100, top_k=5, temperature=0.8)
    complete = generate(policy, tokenizer, prompts, sampling, 20, seed=3)
    after = torch.rand(4)
    sizes = limit(policy, rows)
    with caplog.at_level(logging.WARNING):
        parts = generate(policy, tokenizer, prompts, sampling, 20, seed=3)
    pd.testing.assert_frame_equal(parts, complete)
    assert torch.equal(torch.rand(4), after)
    tried = [size for size in (100, 50, 25, 13, 7, 4, 2, 1) if size > rows]
    assert sizes[: len(tried)] == tried
    assert max(sizes[len(tried) :]) <= rows, "the second batch starts with the size that fitted"
    assert len(caplog.messages) == len(tried)
    if tried:
        assert caplog.messages[0] == "Out of memory while generating 100 responses at a time; continuing with 50."


def test_other_errors_and_out_of_memory_for_one_row_are_raised(world):
    def out_of_memory(rows: list[int]) -> None:
        raise OUT_OF_MEMORY

    with pytest.raises(torch.OutOfMemoryError):
        OomRetry()([1, 2, 3, 4], out_of_memory)

    def fail(rows: list[int]) -> None:
        raise RuntimeError(f"{rows}: shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match=r"\[1, 2, 3, 4\]: shapes"):
        OomRetry()([1, 2, 3, 4], fail)


@pytest.mark.parametrize(("given", "first"), [(None, [256, 128, 64]), (96, [96, 96, 64])])
def test_training_with_generation_in_parts_gives_the_same_adapter(tmp_path, given, first):
    """Up to the rounding of passes over fewer rows."""
    reward = table_reward()
    settings = {"total_episodes": 512, "num_mini_batches": 2, "per_device_train_batch_size": 128}
    complete = make_trainer(tmp_path / "complete", [reward], **settings)
    parts = make_trainer(tmp_path / "parts", [reward], generation_rows=given, **settings)
    complete.train()
    sizes = limit(parts.model.base_model.model, 100)
    parts.train()
    assert sizes[: len(first)] == first
    for (name, one), (_, two) in zip(complete.model.named_parameters(), parts.model.named_parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5, msg=name)


def test_gradient_checkpointing_is_on_after_out_of_memory(tmp_path):
    reward = table_reward()
    settings = {"num_mini_batches": 1, "per_device_train_batch_size": 256, "gradient_checkpointing": True}
    trainer = make_trainer(tmp_path, [reward], **settings)
    limit(trainer.model.base_model.model, 100)
    states, compute_loss = set(), trainer.compute_loss

    def recorded(model, *args, **kwargs):
        states.add(model.is_gradient_checkpointing)
        return compute_loss(model, *args, **kwargs)

    trainer.compute_loss = recorded
    trainer.train()
    assert states == {True}


def test_out_of_memory_in_the_pass_of_the_base_policy_leaves_the_adapter_on(tmp_path, world, monkeypatch):
    """A policy whose p0 has an adapter too; the pass of p0 fails once, and no response is sampled from p0 after it."""
    policy, tokenizer, prompts = world
    shape = LoraConfig(r=4, init_lora_weights=False, target_modules="all-linear", exclude_modules=["lm_head"])
    tuned = get_peft_model(policy, shape)
    tuned.add_adapter(TUNED, shape)
    tuned.set_adapter(TUNED)
    sampling = SamplingConfig(max_new_tokens=3, batch_size=100)
    complete = generate(tuned.eval(), tokenizer, prompts, sampling, 10, seed=3, measure_kl=True)
    calls, log_prob = [], responses.log_prob

    def fails_once(*args, **kwargs):
        calls.append(tuned.active_adapter)
        if len(calls) == 2:
            raise OUT_OF_MEMORY
        return log_prob(*args, **kwargs)

    monkeypatch.setattr(responses, "log_prob", fails_once)
    parts = generate(tuned, tokenizer, prompts, sampling, 10, seed=3, measure_kl=True)
    assert calls[:2] == [TUNED, "default"]
    pd.testing.assert_frame_equal(parts, complete, check_exact=False, atol=1e-5)


def test_invalid_probabilities_are_refused_in_parts_too():
    def sample_nan(rows):
        if len(rows) == 4:
            raise OUT_OF_MEMORY
        return torch.multinomial(torch.full((len(rows), 3), torch.nan), num_samples=1)

    with pytest.raises(RuntimeError, match="probability tensor contains"):
        OomRetry()([1, 2, 3, 4], sample_nan)


LIMITED = """
import json, resource, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from mapft.config import SamplingConfig
from mapft.sampling.models import clear_generation_defaults
from mapft.sampling.tokens import TokenizedPrompts
from mapft.sampling.responses import generate
from tests.ppo import tabular

torch.manual_seed(0)
shape = dict(hidden_size=256, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4)
model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **shape, max_position_embeddings=512)).eval()
words = tabular.tokenizer()
clear_generation_defaults(model, words)
model.generation_config.eos_token_id = [9]  # no response ends early
prompts = TokenizedPrompts([[7, 2]] * 512, ["f a"] * 512)

def table():
    return generate(model, words, prompts, SamplingConfig(max_new_tokens=64, batch_size=512), 1, seed=0)

complete = table()
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]) * 2**20, -1))
parts = table()
print(json.dumps(complete.equals(parts)))
"""


def test_a_limit_of_the_system(tmp_path):
    """The cache of 512 responses of 66 tokens, 4 layers x 2 x 256 numbers each: 277 MB, twice that while it grows."""
    done = subprocess.run([sys.executable, "-c", LIMITED, "200"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) is True
    assert "Out of memory while generating 512 responses at a time; continuing with 256." in done.stderr
