"""Generation in parts. Truth: the draws, random state and training of the whole batch; the system's own limit."""

import json
import logging
import subprocess
import sys

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model

from mapft.config import ModelConfig, SamplingConfig
from mapft.halving import Halving
from mapft.sampling import generate
from mapft.sampling.generate import draw, tokenize
from mapft.sampling.models import TUNED, load_policy
from tests.ppo import tabular
from tests.ppo.test_trainer import LAM, make_trainer

SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def world(tmp_path):
    tabular.model().save_pretrained(tmp_path)
    tabular.tokenizer().save_pretrained(tmp_path)
    policy, tokenizer = load_policy(ModelConfig(path=str(tmp_path)))
    return policy, tokenizer, tokenize(tabular.PROMPTS, tokenizer)


def limit(model, rows: int) -> list[int]:
    """From now on a pass over more than `rows` rows is out of memory; the sizes of generations that were tried."""
    sizes: list[int] = []
    whole = model.generate

    def generate(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"] if "input_ids" in kwargs else args[0]))
        answer = whole(*args, **kwargs)
        if sizes[-1] > rows:  # after it has drawn, as memory runs out in the middle
            raise SHORT
        return answer

    model.generate = generate
    return sizes


@pytest.mark.parametrize("rows", [100, 33, 1])
def test_halves_draw_what_the_whole_batch_would_have(world, rows, caplog):
    policy, tokenizer, prompts = world
    sampling = SamplingConfig(max_new_tokens=3, batch_size=100, top_k=5, temperature=0.8)
    whole = draw(policy, tokenizer, prompts, sampling, 20, seed=3)
    after = torch.rand(4)
    sizes = limit(policy, rows)
    with caplog.at_level(logging.WARNING):
        parts = draw(policy, tokenizer, prompts, sampling, 20, seed=3)
    pd.testing.assert_frame_equal(parts, whole)
    assert torch.equal(torch.rand(4), after)
    tried = [size for size in (100, 50, 25, 13, 7, 4, 2, 1) if size > rows]
    assert sizes[: len(tried)] == tried
    assert max(sizes[len(tried) :]) <= rows, "what fitted is where the second batch begins"
    assert len(caplog.messages) == len(tried)
    if tried:
        assert caplog.messages[0] == "Out of memory while drawing 100 responses at a time; going on with 50."


def test_another_error_and_memory_for_one_row_are_raised(world):
    def draw_none(rows: list[int]) -> None:
        raise SHORT

    with pytest.raises(torch.OutOfMemoryError):
        Halving()([1, 2, 3, 4], draw_none)

    def fail(rows: list[int]) -> None:
        raise RuntimeError(f"{rows}: shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match=r"\[1, 2, 3, 4\]: shapes"):
        Halving()([1, 2, 3, 4], fail)


def test_training_in_halves_is_training(tmp_path):
    """The same adapter, but for the rounding of passes over fewer rows."""
    reward = tabular.TableReward(tabular.scores() @ LAM)
    settings = {"total_episodes": 512, "num_mini_batches": 2, "per_device_train_batch_size": 128}
    whole, halved = (make_trainer(tmp_path / name, [reward], **settings) for name in ("whole", "halved"))
    whole.train()
    sizes = limit(halved.model.base_model.model, 100)
    halved.train()
    assert sizes[:3] == [256, 128, 64]
    for (name, one), (_, two) in zip(whole.model.named_parameters(), halved.model.named_parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5, msg=name)


def test_checkpointing_is_on_again_after_memory_was_short(tmp_path):
    reward = tabular.TableReward(tabular.scores() @ LAM)
    settings = {"num_mini_batches": 1, "per_device_train_batch_size": 256, "gradient_checkpointing": True}
    trainer = make_trainer(tmp_path, [reward], **settings)
    limit(trainer.model.base_model.model, 100)
    seen, compute_loss = set(), trainer.compute_loss

    def watched(model, *args, **kwargs):
        seen.add(model.is_gradient_checkpointing)
        return compute_loss(model, *args, **kwargs)

    trainer.compute_loss = watched
    trainer.train()
    assert seen == {True}


def test_memory_that_is_short_for_the_base_policy_leaves_the_adapter_on(tmp_path, world, monkeypatch):
    """A policy whose p0 has an adapter too; the pass of p0 fails once, and nothing is drawn from p0 after it."""
    policy, tokenizer, prompts = world
    shape = LoraConfig(r=4, init_lora_weights=False, target_modules="all-linear", exclude_modules=["lm_head"])
    tuned = get_peft_model(policy, shape)
    tuned.add_adapter(TUNED, shape)
    tuned.set_adapter(TUNED)
    sampling = SamplingConfig(max_new_tokens=3, batch_size=100)
    whole = draw(tuned.eval(), tokenizer, prompts, sampling, 10, seed=3, measure_kl=True)
    calls, log_prob = [], generate.log_prob

    def short_once(*args, **kwargs):
        calls.append(tuned.active_adapter)
        if len(calls) == 2:
            raise SHORT
        return log_prob(*args, **kwargs)

    monkeypatch.setattr(generate, "log_prob", short_once)
    parts = draw(tuned, tokenizer, prompts, sampling, 10, seed=3, measure_kl=True)
    assert calls[:2] == [TUNED, "default"]
    pd.testing.assert_frame_equal(parts, whole, check_exact=False, atol=1e-5)


def test_probabilities_that_are_none_are_refused_in_halves_too():
    def draw_nan(rows):
        if len(rows) == 4:
            raise SHORT
        return torch.multinomial(torch.full((len(rows), 3), torch.nan), num_samples=1)

    with pytest.raises(RuntimeError, match="probability tensor contains"):
        Halving()([1, 2, 3, 4], draw_nan)


LIMITED = """
import json, resource, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from mapft.config import SamplingConfig
from mapft.sampling.generate import Tokenized, draw
from mapft.sampling.models import neutralize_decoding
from tests.ppo import tabular

torch.manual_seed(0)
shape = dict(hidden_size=256, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4)
model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **shape, max_position_embeddings=512)).eval()
words = tabular.tokenizer()
neutralize_decoding(model, words)
model.generation_config.eos_token_id = [9]  # no response ends early
prompts = Tokenized([[7, 2]] * 512, ["f a"] * 512)

def drawn():
    return draw(model, words, prompts, SamplingConfig(max_new_tokens=64, batch_size=512), 1, seed=0)

drawn_whole = drawn()
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]) * 2**20, -1))
drawn_halved = drawn()
print(json.dumps(drawn_whole.equals(drawn_halved)))
"""


def test_the_systems_own_limit(tmp_path):
    """512 responses of 66 tokens keep 4 layers x 2 x 256 numbers each: 277 MB and as much again while it grows."""
    done = subprocess.run([sys.executable, "-c", LIMITED, "200"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) is True
    assert "Out of memory while drawing 512 responses at a time; going on with 256." in done.stderr
