"""Truth: the ranges in mapft/config/trainer.py, and the learning rate that the optimizer uses."""

import pytest

from mapft.ppo import PPOConfig
from mapft.utils.errors import UserError
from tests.ppo.trainers import Record, make_trainer, table_reward


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_coef": 0.0}, "kl_coef=0.0 is invalid; it must be above 0\\.$"),
        ({"entropy_coef": 0.01}, "entropy_coef=0.01 has no effect in PPOTrainer"),
        ({"num_ppo_epochs": 0}, "num_ppo_epochs=0 is invalid; it must be at least 1"),
        ({"critic_trunk": "none"}, "critic_trunk=none is unknown"),
        ({"beta": 0.05}, "beta=0.05 is GRPO's name; in PPOConfig set kl_coef"),
        ({"epsilon": 0.1}, "in PPOConfig set cliprange"),
        ({"num_iterations": 7}, "in PPOConfig set num_ppo_epochs"),
        ({"scale_rewards": "group"}, "scale_rewards=group has no effect in PPOTrainer"),
        ({"gae_lambda": 2.0}, "gae_lambda=2.0 is invalid; it must be at least 0 and at most 1"),
        ({"cliprange": -0.2}, "cliprange=-0.2 is invalid; it must be above 0"),
        ({"total_episodes": 0}, "total_episodes=0 is invalid; it must be at least 1"),
        ({"total_episodes": 10, "max_steps": 5}, "both set the length of the training"),
        ({"per_device_train_batch_size": 1}, "An iteration of 1 response has no variance"),
        ({"critic_warmup_iterations": -1}, "critic_warmup_iterations=-1 is invalid; it must be at least 0"),
        ({"reward_retries": -1}, "reward_retries=-1 is invalid; it must be at least 0"),
        ({"save_total_limit": 1}, "save_total_limit=1 leaves no complete checkpoint"),
        (
            {"per_device_train_batch_size": 6, "num_generations": 4},
            "of 6 responses is not a multiple of num_generations=4",
        ),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        PPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, **settings)


@pytest.mark.parametrize(
    "setting", [{"temperature": 0.7}, {"top_k": 50}, {"generation_kwargs": {"top_k": 5}}, {"gamma": 0.99}]
)
def test_settings_that_move_the_optimum_are_named_in_a_warning(tmp_path, setting):
    [name] = setting
    with pytest.warns(UserWarning, match="move PPO.s optimum") as raised:
        PPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, **setting)
    assert any(f"{name}={setting[name]} (exact: " in str(warning.message) for warning in raised)


@pytest.mark.parametrize("schedule", ["constant_with_warmup", "linear"])
def test_warmup_steps_raise_the_learning_rate(tmp_path, schedule):
    """After k of 4 warm-up steps the rate is k/4 of the full one; then it is constant, or falls linearly to 0."""
    settings = {"warmup_steps": 4, "lr_scheduler_type": schedule, "learning_rate": 8e-3, "logging_steps": 1}
    trainer = make_trainer(tmp_path, [table_reward()], total_episodes=512, **settings)
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    rates = [log["learning_rate"] for log in record.logs if "learning_rate" in log]
    assert rates[:5] == pytest.approx([0, 2e-3, 4e-3, 6e-3, 8e-3])
    assert rates[5:] == pytest.approx([8e-3] * 3 if schedule == "constant_with_warmup" else [6e-3, 4e-3, 2e-3])
