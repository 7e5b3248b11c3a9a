"""What mapft/ppo/trl_seam.py relies on in TRL, transformers, PEFT and DeepSpeed, checked by running it.

Truth: hand arithmetic, and enumeration of the tabular world. When a test fails, the library has changed: adapt the
seam before widening the pin in pyproject.toml.
"""

import json
from pathlib import Path

import pytest
import torch
import transformers.trainer
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config
from trl import DPOConfig, GRPOTrainer

from mapft.planning.memory_tracker import MemoryTracker
from mapft.ppo import PPOConfig, PPOTrainer, trl_seam
from mapft.utils.device import whole_weights
from mapft.utils.forward import causal_model
from tests.ppo import tabular
from tests.ppo.trainers import QUIET_CPU, Record, lora, make_trainer, move_policy, table_reward


class Recorder(trl_seam.TRLSeam):
    """Records the calls of the hooks; its loss pulls the adapter to 0."""

    portable = True

    def __init__(self, folder: Path, reward_funcs=(), **settings) -> None:
        self.calls: list[str] = []
        args = PPOConfig(output_dir=str(folder), per_device_train_batch_size=4, **QUIET_CPU | settings)
        super().__init__(
            tabular.model(),
            list(reward_funcs) or [table_reward()],
            args=args,
            train_dataset=Dataset.from_dict({"prompt": tabular.PROMPTS}),
            processing_class=tabular.tokenizer(),
            peft_config=lora(),
        )

    def rollout(self, rows):
        self.calls.append("rollout")
        return {"rows": [row["prompt"] for row in rows]}

    def next_micro_batch(self, rows):
        self.calls.append("next_micro_batch")
        return self.rollout(rows)

    def loss(self, model, batch):
        self.calls.append(f"loss {batch['rows'][0]}")
        return sum(p.square().sum() for p in model.parameters() if p.requires_grad)

    def prompt_sampler(self):
        self.calls.append("prompt_sampler")
        return SequentialSampler(self.train_dataset)

    def generate_tokens(self, prompt_ids, generate):
        self.calls.append("generate_tokens")
        return generate(prompt_ids), None

    def may_save(self):
        return self.state.global_step == 2

    def checkpoint_saved(self, folder):
        self.calls.append(f"checkpoint_saved {folder.name}")

    def checkpoint_loaded(self, folder):
        self.calls.append(f"checkpoint_loaded {folder.name}")

    def save_optimizer(self, folder):
        self.calls.append("save_optimizer")
        (folder / trl_seam.SCHEDULER_FILE).touch()

    def load_optimizer(self, folder):
        self.calls.append(f"load_optimizer {folder.name}")


def test_a_training_step_calls_the_hooks_in_order(tmp_path):
    trainer = Recorder(tmp_path, max_steps=1)
    trainer.train()
    assert trainer.calls == ["prompt_sampler", "next_micro_batch", "rollout", f"loss {tabular.PROMPTS[0]}"]
    assert trainer.micro_step == 1


def test_checkpoints_are_written_where_allowed_and_resumed(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "learning_rate": 0.1}
    trainer = Recorder(tmp_path, **settings)
    trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert [call for call in trainer.calls if "save" in call] == ["save_optimizer", "checkpoint_saved checkpoint-2"]
    resumed = Recorder(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    loaded = ["load_optimizer checkpoint-2", "checkpoint_loaded checkpoint-2"]
    assert [call for call in resumed.calls if "load" in call] == loaded
    assert sum(call.startswith("loss") for call in resumed.calls) == 1
    fresh = Recorder(tmp_path)
    fresh.load_weights(str(tmp_path / "checkpoint-2"))
    saved, weights = (dict(t.model.named_parameters()) for t in (trainer, fresh))
    moved = [name for name, weight in weights.items() if "lora_A" in name and weight.requires_grad]
    assert all(0 < (weights[name] - saved[name]).abs().max() < 0.2 for name in moved)  # trainer took one step more


def test_generation_returns_one_response_per_prompt_in_order(tmp_path):
    trainer = Recorder(tmp_path, max_completion_length=tabular.STEPS)
    generated = trainer.responses(tabular.PROMPTS)
    assert trainer.calls == ["generate_tokens"]
    assert generated.prompt_ids == trainer.text_tokenizer(tabular.PROMPTS)["input_ids"]
    assert all(tuple(ids) in tabular.responses() for ids in generated.completion_ids)
    assert len(generated.completions) == len(generated.completion_ids) == len(tabular.PROMPTS)
    assert generated.log_probs is None
    assert generated.tool_mask is None
    assert generated.extra == {}
    lengths = [len(ids) for ids in generated.completion_ids]
    assert trainer.metrics["completions/mean_length"] == [pytest.approx(sum(lengths) / len(lengths))]


def test_prompts_are_rendered_by_trl_unless_their_tokens_are_given(tmp_path):
    trainer, tokens = Recorder(tmp_path, max_completion_length=tabular.STEPS), [[3, 2], [2]]
    assert trainer.responses(["b", "a"], tokens).prompt_ids == tokens
    assert trainer.responses(["b", "a"]).prompt_ids == trainer.text_tokenizer(["b", "a"])["input_ids"]


def test_generation_leaves_the_model_in_its_mode(tmp_path, monkeypatch):
    """TRL switches to training mode after continuous batching; an evaluation must not end in it."""
    trainer = Recorder(tmp_path, max_completion_length=tabular.STEPS)
    single_turn = GRPOTrainer._generate_single_turn

    def as_continuous_batching(self, *args, **kwargs):
        generated = single_turn(self, *args, **kwargs)
        self.model.train()
        return generated

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", as_continuous_batching)
    for training in (False, True):
        trainer.model.train(training)
        trainer.responses(tabular.PROMPTS)
        assert trainer.model.training is training


def test_rollout_funcs_give_log_probs_masks_and_columns(tmp_path):
    trainer = Recorder(tmp_path)
    trainer.rollout_func = lambda prompts, _: {
        "prompt_ids": [[7, 2]] * len(prompts),
        "completion_ids": [[3, 1]] * len(prompts),
        "logprobs": [[-1.0, -2.0]] * len(prompts),
        "env_mask": [[1, 0]] * len(prompts),
        "page": list(range(len(prompts))),
    }
    generated = trainer.responses(tabular.PROMPTS[:2])
    assert generated.log_probs == [[-1.0, -2.0]] * 2
    assert generated.tool_mask == [[1, 0]] * 2
    assert generated.extra == {"page": [0, 1]}


def test_rewards_have_a_column_per_function_in_order_and_what_they_log_is_taken_once(tmp_path):
    def first(completions, page, log_metric, log_extra, trainer_state, **_):
        log_metric("pages", sum(page))
        log_extra("half", [number / 2 for number in page])
        return [float(number) for number in page]

    async def second(completion_ids, **_):
        return [10.0 * len(ids) for ids in completion_ids]

    trainer = Recorder(tmp_path, [first, second])
    rows = [{"prompt": "a", "page": 3}, {"prompt": "b", "page": 5}]
    rewards = trainer.rewards_of_functions(rows, ["a", "b"], ["x", "y"], [[2], [2, 1]])
    assert rewards.tolist() == [[3.0, 10.0], [5.0, 20.0]]
    assert trainer.reward_func_names == ["first", "second"]
    assert trainer.reward_weights.tolist() == [1.0, 1.0]
    assert trainer.take_function_metrics() == ({"pages": [8]}, {"half": [1.5, 2.5]})
    assert trainer.take_function_metrics() == ({}, {})


def test_metrics_are_averaged_by_log_and_cleared(tmp_path):
    trainer = Recorder(tmp_path)
    record = Record()
    trainer.add_callback(record)
    trainer.model.train()
    trainer.metrics["a"].extend([1.0, 3.0])
    trainer.model.eval()
    trainer.metrics["a"].append(7.0)
    trainer.log({"b": 5.0})
    assert {name: record.logs[0][name] for name in ("b", "eval_a")} == {"b": 5.0, "eval_a": 7.0}
    assert "a" not in record.logs[0]
    assert not trainer.metrics
    trainer.model.train()
    assert trainer.metrics["a"] == [1.0, 3.0]


def test_columns_are_those_of_the_last_rollout(tmp_path):
    def length(completions, **_):
        return [float(len(text)) for text in completions]

    trainer = make_trainer(tmp_path, [length], per_device_train_batch_size=16, total_episodes=32)
    trainer.train()
    columns = trainer.completions
    assert set(columns) == {"prompt", "completion", "reward/length"}
    assert sorted(columns["prompt"]) == sorted(tabular.PROMPTS * 2)
    assert columns["reward/length"] == [len(text) for text in columns["completion"]]
    assert len(trainer.rollout_columns["advantages"]) == 16


def test_trainer_attributes_have_the_meaning_that_is_read_from_them(tmp_path):
    trainer = make_trainer(tmp_path, [table_reward()], num_ppo_epochs=3, num_mini_batches=2)
    assert trainer.num_iterations == 3
    assert trainer.args.generation_batch_size == 2 * 256
    assert trainer.max_completion_length == tabular.STEPS
    assert trainer.eos_token_ids == [tabular.EOS]
    assert trainer.ref_model is None
    assert trainer.generation_config.disable_compile is True
    assert trainer.text_tokenizer.pad_token_id == 0
    assert trainer.micro_step == 0


def test_fused_log_probs_equal_the_log_softmax_of_logits(tmp_path):
    """Two rows of 5 columns; labels at 3 of their states; entropy and hidden states at the same places."""
    trainer = make_trainer(tmp_path, [table_reward()])
    move_policy(trainer, std=0.1)
    model, causal = trainer.model.eval(), causal_model(trainer.model)
    input_ids = torch.tensor([[7, 2, 3, 4, 5], [7, 3, 2, 6, 1]])
    states, labels = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 1, 0]]).bool(), torch.tensor([3, 5, 1])
    with torch.no_grad():
        expected = model(input_ids=input_ids).logits[states].log_softmax(-1)
        hidden = causal.base_model(input_ids=input_ids).last_hidden_state[states]
    log_probs, entropy, features = trl_seam.fused_log_probs(model, causal, {"input_ids": input_ids}, labels, states)
    torch.testing.assert_close(log_probs.flatten(), expected[range(3), labels], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy.flatten(), -(expected.exp() * expected).sum(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features, hidden, atol=1e-5, rtol=1e-5)
    assert not features.requires_grad
    log_probs.sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_the_head_holds_few_logits_at_a_time(monkeypatch):
    """65536 vocabulary entries, 512 states: less than ten tiles of 512 x 4096; the gradient is that of one tile."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=65_536, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    trl_seam.add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    ids = torch.randint(0, config.vocab_size, (1, 512))

    def run(tile: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        monkeypatch.setattr(trl_seam, "HEAD_TILE", tile)
        model.zero_grad()
        with MemoryTracker() as tracker:
            states = torch.ones_like(ids, dtype=torch.bool)
            log_probs, _, _ = trl_seam.fused_log_probs(model, model, {"input_ids": ids}, ids[0], states)
        log_probs.sum().backward()
        return log_probs, model.lm_head.weight.grad, tracker.peak

    (narrow, gradient, peak), (whole, expected, larger) = run(4096), run(65_536)
    assert peak < 10 * 512 * 4096 * 4 < larger
    torch.testing.assert_close(narrow, whole)
    torch.testing.assert_close(gradient, expected)


def test_add_fused_lm_head_gives_a_plain_model_log_probs():
    model = tabular.model()
    trl_seam.add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    outputs = model(input_ids=torch.tensor([[7, 2]]), shift_labels=torch.tensor([[2, 3]]), fused_lm_head=True)
    assert outputs.log_probs.shape == outputs.entropy.shape == (1, 2)


def test_use_adapter_switches_the_adapter_off_inside(tmp_path):
    trainer = make_trainer(tmp_path, [table_reward()])
    move_policy(trainer, std=0.5)
    policy, ids = trainer.model.eval(), torch.tensor([[7, 2]])
    with torch.no_grad():
        moved = policy(input_ids=ids).logits
        with trl_seam.use_adapter(policy, None):
            base = policy(input_ids=ids).logits
        again = policy(input_ids=ids).logits
    torch.testing.assert_close(base, tabular.model()(input_ids=ids).logits)
    assert (moved - base).abs().max() > 0.01
    assert torch.equal(moved, again)


def test_gradient_checkpointing_is_off_inside_and_on_again_after(tmp_path):
    trainer = make_trainer(tmp_path, [table_reward()])
    trainer.model.gradient_checkpointing_enable()
    states = [trainer.model.is_gradient_checkpointing]
    with trl_seam.without_gradient_checkpointing(trainer.model, None):
        states.append(trainer.model.is_gradient_checkpointing)
    states.append(trainer.model.is_gradient_checkpointing)
    assert states == [True, False, True]


def test_padding_functions_and_models():
    rows = [torch.tensor([1]), torch.tensor([2, 3])]
    assert trl_seam.pad(rows, 0, "left").tolist() == [[0, 1], [2, 3]]
    assert trl_seam.pad(rows, 0, "right").tolist() == [[1, 0], [2, 3]]

    async def judge(**_):
        return []

    assert trl_seam.function_name(judge) == "judge"
    assert trl_seam.is_async_callable(judge)
    assert not trl_seam.is_async_callable(table_reward())


def test_a_loaded_model_has_a_path_and_one_in_memory_has_none(tmp_path):
    model = tabular.model()
    assert not trl_seam.model_path(model)
    model.save_pretrained(tmp_path)
    assert trl_seam.model_path(type(model).from_pretrained(tmp_path)) == str(tmp_path)


def test_dpo_on_token_ids_trains_on_these(tmp_path):
    """The batch has the ids as they are, padded."""
    args = DPOConfig(output_dir=str(tmp_path), max_length=None, max_steps=1, **QUIET_CPU)
    rows = [{"prompt_ids": [7, 2], "chosen_ids": [3, 0, 4], "rejected_ids": [5]}] * 2
    trainer = trl_seam.TokenDPOTrainer(
        tabular.model(),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tabular.tokenizer(),
        peft_config=lora(),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].tolist() == [[7, 2, 3, 0, 4]] * 2 + [[7, 2, 5, 0, 0]] * 2
    assert batch["completion_mask"].tolist() == [[0, 0, 1, 1, 1]] * 2 + [[0, 0, 1, 0, 0]] * 2
    assert trainer.train().global_step == 1


@pytest.fixture
def zero3():
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (pip install 'mapft[deepspeed]')")
    yield HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    unset_hf_deepspeed_config()


def test_zero3_is_recognised_and_whole_weights_hides_it(zero3):
    assert trl_seam.is_zero3_enabled()
    with whole_weights():
        assert not trl_seam.is_zero3_enabled()
    assert trl_seam.is_zero3_enabled()


def test_transformers_asks_deepspeed_by_the_name_that_is_replaced(tmp_path, monkeypatch):
    """A trainer that believes in DeepSpeed calls the replaced function, and not inside without_deepspeed_loading."""
    calls = []
    monkeypatch.setattr(transformers.trainer, "deepspeed_load_checkpoint", lambda *_, **__: calls.append(1))
    monkeypatch.setattr(transformers.trainer, "deepspeed_init", lambda *_, **__: (None, None))  # an engine needs a GPU
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    Recorder(tmp_path, **settings).train()
    checkpoint = str(tmp_path / "checkpoint-2")
    assert json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"] == 2

    def resume() -> None:
        trainer = Recorder(tmp_path, **settings | {"max_steps": 3})
        monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
        monkeypatch.setattr(trainer, "_load_from_checkpoint", lambda *_, **__: None)
        trainer.train(resume_from_checkpoint=checkpoint)

    with trl_seam.without_deepspeed_loading():
        resume()
    assert calls == []
    resume()
    assert calls == [1]


def test_the_model_card_names_ppo(tmp_path):
    trainer = make_trainer(tmp_path, [table_reward()], per_device_train_batch_size=8, total_episodes=8)
    trainer.create_model_card(model_name="tuned")
    card = (tmp_path / "README.md").read_text()
    assert "PPO" in card
    assert "1707.06347" in card
    assert isinstance(trainer, PPOTrainer)
