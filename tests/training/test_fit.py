"""Truth: names of settings, which are the same in TrainerConfig, PPOConfig and the transformers trainer."""

import pytest

from mapft.config import SamplingConfig, TrainerConfig
from mapft.config.run_folder import RunFolder
from mapft.training.fit import ppo_config
from tests.configs import make_config


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("whiten_advantages", False),
        ("critic_warmup_iterations", 3),
        ("reward_retries", 2),
        ("cache_implementation", "static"),
        ("use_transformers_continuous_batching", True),
        ("lr_scheduler_type", "constant_with_warmup"),
        ("warmup_steps", 7),
        ("weight_decay", 0.01),
        ("adam_beta1", 0.8),
        ("adam_beta2", 0.95),
        ("adam_epsilon", 1e-6),
        ("max_grad_norm", 0.5),
        ("total_episodes", 123),
    ],
)
def test_settings_of_the_trainer_reach_ppo(tmp_path, setting, value):
    before = ppo_config(make_config(), RunFolder(tmp_path))
    after = ppo_config(make_config(trainer=TrainerConfig(**{setting: value})), RunFolder(tmp_path))
    assert getattr(after, setting) == value != getattr(before, setting)


def test_settings_of_sampling_reach_ppo(tmp_path):
    config = make_config(sampling=SamplingConfig(max_new_tokens=9), seed=5)
    args = ppo_config(config, RunFolder(tmp_path))
    assert (args.max_completion_length, args.temperature, args.top_k, args.top_p, args.seed) == (9, 1.0, 0, 1.0, 5)
    assert args.output_dir == str(tmp_path / "checkpoints")
