"""The optimizer steps, evaluation. Truth: the gradient of the full batch, and hand arithmetic on logged means."""

import pytest
import torch
from datasets import Dataset

from mapft.ppo import PPOConfig, PPOTrainer
from mapft.ppo.batch import plan_epoch, select_rows
from tests.ppo import tabular
from tests.ppo.trainers import QUIET_CPU, lora, make_trainer, table_reward


def gradient(trainer: PPOTrainer, batch, micro_batch: int) -> torch.Tensor:
    """Gradient of one step on the full batch, in micro-batches; those of several rows keep all padding."""
    trainer.model.train()
    trainer.model.zero_grad()
    plan = plan_epoch(batch, trainer.args.num_mini_batches, micro_batch, seed=0)
    trainer.current_gradient_accumulation_steps = len(plan)
    for rows in plan:
        part = select_rows(batch, rows) if micro_batch == 1 else {name: array[rows] for name, array in batch.items()}
        trainer.loss(trainer.model, part).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_padding_and_accumulation_do_not_change_the_gradient(tmp_path):
    trainer = make_trainer(tmp_path, [table_reward()])
    trainer.model.train()
    batch = trainer.rollout([{"prompt": prompt} for prompt in tabular.PROMPTS * 2])
    full = gradient(trainer, batch, 16)
    assert full.abs().max() > 1e-4
    for micro_batch in (4, 1):
        difference = gradient(trainer, batch, micro_batch) - full
        assert difference.norm() < 1e-5 * full.norm()  # fp32: 1e-7 per sum


def test_conversations_weighted_rewards_and_evaluation(tmp_path):
    """Prompts of messages; the score is sum_f w_f r_f; the evaluation loss is -(E[R] - kl_coef KL)."""
    received = []

    def length(completions, **_):
        received.append(completions[0])
        return [float(len(c[0]["content"])) for c in completions]

    def one(completions, **_):
        return [1.0] * len(completions)

    tokenizer = tabular.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    rows = Dataset.from_dict({"prompt": [[{"role": "user", "content": p}] for p in tabular.PROMPTS]})
    args = PPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        num_generations=2,
        total_episodes=16,
        max_completion_length=3,
        reward_weights=[0.5, 2.0],
        **QUIET_CPU,
    )
    trainer = PPOTrainer(
        tabular.model(),
        [length, one],
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora(),
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert received[0][0]["role"] == "assistant"
    expected = 0.5 * metrics["eval_rewards/length/mean"] + 2.0
    assert metrics["eval_objective/scores"] == pytest.approx(expected, rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(-metrics["eval_objective/rlhf_reward"], rel=1e-4)
