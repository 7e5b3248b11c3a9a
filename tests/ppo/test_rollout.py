"""One rollout. Truth: enumeration of the tabular world, unpadded forward passes, and GAE written as a double loop."""

import json
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from mapft.ppo.generation import generate_batch
from tests.ppo import tabular
from tests.ppo.trainers import LAM, Record, make_trainer, move_policy


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [("llama", {}), ("gpt2", {}), ("opt", {}), ("falcon", {}), ("llama", {"cache_implementation": "static"})],
)
def test_first_step_has_no_kl_and_ratio_one(tmp_path, world, architecture, settings):
    """With models whose own dropout, and layer dropout where they have it, is 0.1."""
    settings = {"logging_steps": 1, "num_ppo_epochs": 2, "total_episodes": 512} | settings
    table = tabular.TableReward(world[1] @ LAM)
    trainer = make_trainer(tmp_path, [table], tabular.model(architecture=architecture), **settings)
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    first, second = record.logs[0], record.logs[1]
    assert first["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert first["val/ratio"] == pytest.approx(1, abs=1e-6)
    assert first["val/ratio_var"] == pytest.approx(0, abs=1e-6)
    assert second["val/ratio_var"] > 1e-5
    assert record.logs[2]["objective/kl"] != 0


def test_a_trained_adapter_on_embeddings_is_its_own_reference(tmp_path, world):
    """p0 is base and adapter; KL to it is 0 at the first step, embeddings included."""
    own = LoraConfig(r=4, target_modules=".*(embed_tokens|q_proj|v_proj)", task_type="CAUSAL_LM")
    trained = get_peft_model(tabular.model(), own)
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "lora" in name:
                weight.normal_(std=0.3)
    log_p0 = tabular.log_probs(trained.eval())
    assert tabular.kl(log_p0, world[0]) > 0.05
    table = tabular.TableReward(world[1] @ LAM)
    trainer = make_trainer(tmp_path, [table], trained, peft_config=None, total_episodes=512, logging_steps=1)
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    assert record.logs[0]["objective/kl"] == pytest.approx(0, abs=1e-6)
    with trainer.reference() as reference:
        np.testing.assert_allclose(tabular.log_probs(reference), log_p0, atol=1e-5)


def test_full_fine_tuning_has_a_second_model_as_reference(tmp_path, world):
    """Without an adapter the reference is a second copy, which stays p0 while the policy moves."""
    tabular.model().save_pretrained(tmp_path / "model")
    path = str(tmp_path / "model")
    table = tabular.TableReward(world[1] @ LAM)
    settings = {"model_init_kwargs": {"dtype": "float32"}, "total_episodes": 1024, "learning_rate": 1e-3}
    trainer = make_trainer(tmp_path / "run", [table], path, peft_config=None, **settings)
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    kl = [log["objective/kl"] for log in record.logs if "objective/kl" in log]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 0.05
    np.testing.assert_allclose(tabular.log_probs(trainer.ref_model), world[0], atol=1e-5)
    assert tabular.kl(tabular.log_probs(trainer.model.eval()), world[0]) > 0.05


def test_rollouts_follow_p0_despite_the_models_own_decoding_defaults(tmp_path, world):
    """4000 responses against the enumerated p0, which top_k=2 or T=.5 of the model's generation_config would break."""
    trainer = make_trainer(tmp_path, [tabular.TableReward(world[1] @ LAM)])
    torch.manual_seed(0)
    inputs = [{"prompt": tabular.PROMPTS[3]}] * 4000
    batch, _ = generate_batch(trainer, inputs)
    lengths = batch["mask"].sum(1).tolist()
    index = {ids: y for y, ids in enumerate(tabular.responses())}
    counts = np.zeros(len(index))
    for ids, length in zip(batch["completion_ids"].tolist(), lengths, strict=True):
        counts[index[tuple(ids[:length])]] += 1
    expected = 4000 * np.exp(world[0][3])
    common = expected > 5
    chi_square = ((counts - expected)[common] ** 2 / expected[common]).sum()
    assert chi_square < common.sum() + 4 * np.sqrt(2 * common.sum())


@pytest.mark.parametrize("trunk", ["reference", "policy"])
def test_critic_features_are_hidden_states_of_the_chosen_trunk(tmp_path, world, trunk):
    """Hidden states of one unpadded pass by the adapted model or its base; log-probabilities do not depend on it."""
    trainer = make_trainer(tmp_path, [tabular.TableReward(world[1] @ LAM)], critic_trunk=trunk)
    move_policy(trainer, std=0.1)
    batch, _ = generate_batch(trainer, [{"prompt": tabular.PROMPTS[0]}] * 4)
    recorded = batch["old_logp"]
    features = trainer.add_log_probs(batch)
    torch.testing.assert_close(batch["old_logp"], recorded, atol=1e-5, rtol=0)
    assert (batch["old_logp"] - batch["ref_logp"]).abs().max() > 0.01
    policy = trainer.model.eval()
    with torch.no_grad(), policy.disable_adapter() if trunk == "reference" else nullcontext():
        prompt = batch["prompt_ids"][:1]
        states = policy.get_base_model().base_model(prompt).last_hidden_state
    torch.testing.assert_close(features[0, 0], states[0, -1], atol=1e-5, rtol=0)


def test_log_probs_that_a_rollout_func_returns_are_not_used_as_the_policys(tmp_path, world):
    def rollout(prompts, trainer):
        ids = [trainer.processing_class(prompt)["input_ids"] for prompt in prompts]
        responses = [list(tabular.responses()[0]) for _ in prompts]
        return {"prompt_ids": ids, "completion_ids": responses, "logprobs": [[0.0] * len(r) for r in responses]}

    trainer = make_trainer(tmp_path, [tabular.TableReward(world[1] @ LAM)])
    trainer.rollout_func = rollout
    batch, _ = generate_batch(trainer, [{"prompt": prompt} for prompt in tabular.PROMPTS])
    trainer.add_log_probs(batch)
    np.testing.assert_allclose(batch["old_logp"].sum(1), world[0][:, 0], atol=1e-4)


def test_advantages_equal_gae_by_a_double_loop(tmp_path, world):
    """A_t = delta_t + gae_lambda A_{t+1} of R and the KL of a moved policy, then mean 0 and sd 1."""
    table = tabular.TableReward(world[1] @ LAM)
    with pytest.warns(UserWarning, match="gae_lambda"):
        trainer = make_trainer(tmp_path, [table], kl_coef=0.25, gae_lambda=0.5)
    torch.nn.init.normal_(trainer.critic.state_head[-1].weight, std=0.5)
    trainer.model.train()
    inputs = [{"prompt": prompt} for prompt in tabular.PROMPTS * 8]
    move_policy(trainer, std=0.05)
    values = {}
    predict = trainer.critic.values
    trainer.critic.values = lambda *rest: values.setdefault("V", predict(*rest))
    batch = trainer.rollout(inputs)
    mask, kl = batch["mask"], batch["old_logp"] - batch["ref_logp"]
    rewards = -0.25 * kl * mask
    ids = [row[:n].tolist() for row, n in zip(batch["completion_ids"], mask.sum(1), strict=True)]
    score = table([row["prompt"] for row in inputs], ids)
    rewards[torch.arange(len(ids)), mask.sum(1) - 1] += torch.tensor(score)
    expected = torch.zeros_like(rewards)
    for row, length in enumerate(mask.sum(1)):
        advantage = 0.0
        for t in reversed(range(length)):
            following = values["V"][row, t + 1] if t + 1 < length else 0.0
            advantage = rewards[row, t] + following - values["V"][row, t] + 0.5 * advantage
            expected[row, t] = advantage
    sampled = mask.bool()
    expected = (expected - expected[sampled].mean()) / expected[sampled].std(correction=0)
    torch.testing.assert_close(batch["advantages"][sampled], expected[sampled], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["", "engine", "replay"])
def test_two_processes_score_their_own_responses_and_share_moments_and_critic(tmp_path, case):
    """Each rank's scores are those of its own responses; one mean, one sd, one critic and one mismatch for both."""
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "-m", "tests.ppo.two_processes"]
    done = subprocess.run(
        [sys.executable, *launch, str(tmp_path), case], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["responses"] != ranks[1]["responses"]
    for rank in ranks:
        assert rank["scores"] == pytest.approx(rank["looked_up"], abs=1e-5)
    advantages = np.concatenate([rank["advantages"] for rank in ranks])
    assert advantages.mean() == pytest.approx(0, abs=1e-5)
    assert advantages.std() == pytest.approx(1, abs=1e-4)
    assert abs(np.mean(ranks[0]["advantages"])) > 1e-4
    for name in ("critic", "adapter", "critic/explained_variance", "loss/value_avg"):
        assert ranks[0][name] == ranks[1][name]
    measures = [{name: number for name, number in rank.items() if name.startswith("engine/")} for rank in ranks]
    assert measures[0] == measures[1]
    assert bool(measures[0]) == (case == "engine")


def test_critic_warmup_leaves_the_policy_unchanged(tmp_path, world):
    """After the warm-up the policy moves; the critic has explained something from the second iteration on."""
    trainer = make_trainer(
        tmp_path, [tabular.TableReward(world[1] @ LAM)], total_episodes=768, critic_warmup_iterations=2
    )
    record = Record()
    trainer.add_callback(record)
    trainer.train()
    kl = [log["objective/kl"] for log in record.logs if "objective/kl" in log]
    assert kl[:3] == pytest.approx([0, 0, 0], abs=1e-5)
    assert record.logs[1]["critic/explained_variance"] > 0.05
    assert tabular.kl(tabular.log_probs(trainer.model.eval()), world[0]) > 0.01
