"""Where training ends. Truth: exact enumeration of the tabular world, and TRL's RLOO, which has the same optimum."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import GenerationConfig
from trl import RLOOConfig, RLOOTrainer

from mapft.ppo.policy import switch_off_dropout
from tests.ppo import tabular
from tests.ppo.trainers import LAM, QUIET_CPU, lora, make_trainer

CLOSE = {"total_episodes": 80_000, "learning_rate": 3e-3, "num_ppo_epochs": 2}  # 80 s, KL(pi||p_lam) about .008


def levels(log_p_PY: np.ndarray, scores_PYV: np.ndarray) -> np.ndarray:
    """E_x E_y r, (V,)."""
    return np.einsum("py,pyv->v", np.exp(log_p_PY), scores_PYV) / len(log_p_PY)


def trained_log_probs(folder: Path, reward_PY: np.ndarray, **settings) -> np.ndarray:
    trainer = make_trainer(folder, [tabular.TableReward(reward_PY)], **settings)
    trainer.train()
    return tabular.log_probs(trainer.model.eval())


def by_value(scores_PYV: np.ndarray) -> list[tabular.TableReward]:
    return [tabular.TableReward(scores_PYV[:, :, v], name=f"value_{v}") for v in range(scores_PYV.shape[-1])]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, world):
    """A trainer after CLOSE, with one reward function per value and LAM as their weights."""
    functions = by_value(world[1])
    trainer = make_trainer(tmp_path_factory.mktemp("ppo"), functions, reward_weights=LAM.tolist(), **CLOSE)
    trainer.train()
    return trainer


@pytest.mark.slow
def test_reaches_p_lam(trained, world):
    """KL(pi||p_lam) <= .01 nats (a network's own floor here is about .005)."""
    log_p0, scores, log_p_lam = world
    assert tabular.kl(log_p_lam, log_p0) > 0.4
    log_pi = tabular.log_probs(trained.model.eval())
    assert tabular.kl(log_pi, log_p_lam) <= 0.01
    ess = [line["objective/ess"] for line in trained.state.log_history if "objective/ess" in line]
    assert ess[0] < 0.8 < 0.95 < ess[-1]  # E_p0[w^2] at first; at the end 1 / (1 + chi^2) of the remaining difference
    measured, predicted = (levels(log_p, scores) for log_p in (log_pi, log_p_lam))
    np.testing.assert_allclose(measured, predicted, atol=0.03)


def test_only_the_ratio_of_reward_and_kl_coef_counts(tmp_path, world):
    """R = kl_coef * lam.r with weight kl_coef has the optimum p_lam for every kl_coef.

    With whitened advantages and a critic in standard units, kl_coef cancels from every step; powers of two also leave
    the rounding as it is.
    """
    log_p0, scores, _ = world
    policies, measures = {}, {}
    for kl_coef in (1.0, 0.25, 4.0):
        reward = tabular.TableReward(kl_coef * scores @ LAM)
        trainer = make_trainer(tmp_path, [reward], kl_coef=kl_coef, total_episodes=2048)
        trainer.train()
        policies[kl_coef] = tabular.log_probs(trainer.model.eval())
        logs = [line for line in trainer.state.log_history if "objective/ess" in line]
        measures[kl_coef] = [(line["objective/ess"], line["objective/kl"]) for line in logs]
    assert tabular.kl(policies[1.0], log_p0) > 0.1
    for kl_coef in (0.25, 4.0):
        assert tabular.kl(policies[kl_coef], policies[1.0]) < 1e-6
        np.testing.assert_allclose(measures[kl_coef], measures[1.0], rtol=1e-4)


@pytest.mark.slow
def test_agrees_with_trls_rloo(tmp_path, trained, world):
    """TRL's RLOOTrainer with the KL in the reward has the same optimum: KL to the base and levels agree.

    Both stop at about .01 nats from p_lam, so a level may be off by sqrt(2 * .01) = .14 sd at worst on either side.
    """
    log_p0, scores, log_p_lam = world
    model = tabular.model()
    switch_off_dropout(model)  # disable_dropout below misses attention's plain number: RLOO would stop at .12 nats
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=model.generation_config.eos_token_id)
    args = RLOOConfig(
        output_dir=str(tmp_path),
        beta=1.0,
        normalize_advantages=False,
        reward_weights=LAM.tolist(),
        disable_dropout=True,
        num_generations=8,
        per_device_train_batch_size=256,
        steps_per_generation=1,
        max_steps=80_000 // 256,
        max_completion_length=tabular.STEPS,
        learning_rate=5e-3,
        lr_scheduler_type="linear",
        **QUIET_CPU,
        logging_steps=1000,
    )
    rloo = RLOOTrainer(
        model,
        by_value(scores),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": tabular.PROMPTS * 8}),
        processing_class=tabular.tokenizer(),
        peft_config=lora(),
    )
    rloo.train()
    log_rloo, log_ppo = (tabular.log_probs(trainer.model.eval()) for trainer in (rloo, trained))
    assert tabular.kl(log_rloo, log_p_lam) <= 0.02
    assert tabular.kl(log_ppo, log_p0) == pytest.approx(tabular.kl(log_rloo, log_p0), abs=0.03)
    sd = np.sqrt((np.exp(log_p_lam)[..., None] * scores**2).sum((0, 1)) / 8 - levels(log_p_lam, scores) ** 2)
    np.testing.assert_allclose(levels(log_ppo, scores) / sd, levels(log_rloo, scores) / sd, atol=0.05)


@pytest.mark.slow
def test_reward_lam_r_with_a_small_kl_coef_overshoots_p_lam(tmp_path, world):
    """TRL PPO's default weight .05 with reward lam.r: towards p0 exp(lam.r/.05), far from p_lam."""
    log_p0, scores, log_p_lam = world
    log_pi = trained_log_probs(tmp_path, scores @ LAM, kl_coef=0.05, total_episodes=10_000)
    overshoot = tabular.tilted(log_p0, scores @ LAM / 0.05)
    assert tabular.kl(log_pi, log_p_lam) > 0.5
    assert (np.exp(log_pi) * (scores @ LAM)).sum() > 1.5 * (np.exp(log_p_lam) * (scores @ LAM)).sum()
    assert tabular.kl(log_pi, overshoot) < tabular.kl(log_p0, overshoot)


def test_a_constant_reward_leaves_the_policy_unchanged(tmp_path, world):
    """p0 is the optimum of a constant reward; whitening the rounding of log-probabilities would push it away."""
    trainer = make_trainer(tmp_path, [tabular.TableReward(np.full_like(world[0], 3.3))], total_episodes=1024)
    trainer.critic.state_head[-1].bias.data.fill_(3.3)
    trainer.train()
    assert tabular.kl(tabular.log_probs(trainer.model.eval()), world[0]) < 1e-6


@pytest.mark.parametrize("shift", [32.0, -100.0])
def test_a_constant_in_the_reward_changes_nothing(tmp_path, world, shift):
    """p0 exp(R)/Z is the same for R + constant. R has an sd of about 1; float32 keeps five digits of it."""
    reward_PY = world[1] @ LAM
    unshifted, shifted = (trained_log_probs(tmp_path, reward_PY + b, total_episodes=1024) for b in (0.0, shift))
    assert tabular.kl(unshifted, world[0]) > 0.05
    assert tabular.kl(shifted, unshifted) < 1e-3
