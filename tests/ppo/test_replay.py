"""Replay. Truth: hand arithmetic, exact enumeration of the tabular world, an uninterrupted run."""

import numpy as np
import pytest
import torch

from mapft.ppo import ppo_trainer
from mapft.ppo.loss import variance_loss
from mapft.ppo.replay import Group, ReplayStore, distinct, read_groups
from mapft.utils.errors import UserError
from tests.ppo import tabular
from tests.ppo.trainers import LAM, make_trainer, stored_responses, table_reward

REPLAY = {
    "num_generations": 8,
    "per_device_train_batch_size": 64,
    "num_mini_batches": 4,
    "replay_batch": 256,
    "whiten_advantages": False,
}
SHORT = REPLAY | {"num_ppo_epochs": 1, "save_strategy": "steps", "save_steps": 4, "total_episodes": 1024}


def group(number: int, size: int = 2) -> Group:
    return Group([number], [[number, k] for k in range(size)], [[float(number)]] * size, [-1.0] * size)


def store(capacity: int = 100) -> ReplayStore:
    return ReplayStore(capacity, lambda scores_NV: scores_NV.sum(dim=1))


# ---------------------------------------------------------------------- loss


def test_variance_loss_by_hand():
    """d = log pi/p0 - R/beta: (1, 3) with variance 2, and (0, 0, 3) with variance 3; beta/2 times their mean, 2.5."""
    log_ratio, reward = torch.tensor([1.0, 2.0, 0.5, 0.0, 5.0]), torch.tensor([0.0, -2.0, 1.0, 0.0, 4.0])
    loss = variance_loss(log_ratio, reward, torch.tensor([0, 0, 1, 1, 1]), kl_coef=2.0)
    assert loss.item() == pytest.approx(2.5)


@pytest.mark.parametrize("kl_coef", [1.0, 0.25])
def test_at_the_optimum_every_gradient_is_zero(world, kl_coef):
    """log pi/p0 = R/beta - log Z(x), for responses of any policy: here every response equally often."""
    log_p0, scores, log_p_lam = world
    log_ratio = torch.tensor(log_p_lam - log_p0).flatten().requires_grad_()
    prompt = torch.arange(len(log_p0)).repeat_interleave(log_p0.shape[1])
    variance_loss(log_ratio, torch.tensor(kl_coef * scores @ LAM).flatten(), prompt, kl_coef).backward()
    assert log_ratio.grad.abs().max() < 1e-12
    log_ratio.grad = None
    variance_loss(log_ratio, torch.tensor(scores @ LAM).flatten() + 0.5, prompt, 2.0).backward()
    assert log_ratio.grad.abs().max() > 1e-4


# ---------------------------------------------------------------------- store


def test_the_oldest_groups_are_dropped():
    replay = store(capacity=6)
    replay.add([group(number) for number in range(5)])
    assert [one.prompt_ids[0] for one in replay.groups] == [2, 3, 4]
    assert replay.responses == 6


def test_a_sample_has_different_groups_and_depends_on_its_seed():
    replay = store()
    replay.add([group(number, size=3) for number in range(20)])
    chosen = replay.sample(10, seed=1)
    numbers = [one.prompt_ids[0] for one in chosen]
    assert len(set(numbers)) == len(numbers) == 4  # 12 responses: the least number of groups with 10
    assert [one.prompt_ids[0] for one in replay.sample(10, seed=1)] == numbers
    assert any([one.prompt_ids[0] for one in replay.sample(10, seed=seed)] != numbers for seed in range(2, 5))
    assert len(replay.sample(1000, seed=1)) == 20


def test_the_parts_of_a_pass_have_every_group_once():
    replay = store()
    replay.add([group(number, size=3) for number in range(20)])

    def numbers(parts: range, seed: int) -> list[int]:
        return [one.prompt_ids[0] for part in parts for one in replay.part_of_pass(10, part, seed)]

    first, second = numbers(range(7), 1), numbers(range(7, 14), 1)
    assert sorted(first) == sorted(second) == list(range(20))
    assert [len(replay.part_of_pass(10, part, 1)) for part in range(7)] == [3, 3, 3, 3, 3, 3, 2]  # the nearest to 10
    assert first not in (second, numbers(range(7), 2))


def test_a_store_is_read_as_it_was_and_distributed_anew_over_other_processes(tmp_path):
    saved = store()
    saved.add([group(number) for number in range(5)])
    saved.save(tmp_path / "replay.pt", is_main=True)
    read = store()
    read.load(tmp_path / "replay.pt", process=0, processes=1)
    assert read.groups == saved.groups
    shares = [store(), store()]
    for process, share in enumerate(shares):
        share.load(tmp_path / "replay.pt", process, processes=2)
    assert sorted(one.prompt_ids[0] for share in shares for one in share.groups) == [0, 1, 2, 3, 4]


def test_groups_of_any_sizes_are_read_as_they_were(tmp_path):
    saved = ReplayStore(100, lambda scores_NV: scores_NV[:, 0], ["first", "second"])
    saved.add(
        [
            Group([1, 2, 3], [[4], [5, 6], [7, 8, 9]], [[0.1, 1.0], [0.2, 2.0], [0.3, 3.0]], [-1.0, -2.0, -3.0]),
            Group([2**31 - 1], [[], [10, 11]], [[0.4, 4.0], [0.5, 5.0]], []),
        ]
    )
    saved.save(tmp_path / "replay.pt", is_main=True)
    read = store()
    read.load(tmp_path / "replay.pt", process=0, processes=1)
    assert read.groups == saved.groups
    assert [list(scores) for scores in read_groups(tmp_path / "replay.pt", ["second"])[0].scores] == [[1], [2], [3]]
    assert [list(scores) for scores in read_groups(tmp_path / "replay.pt", ["second", "first"])[1].scores] == [
        [4, 0.4],
        [5, 0.5],
    ]


def test_a_store_of_the_version_before_is_one_sentence(tmp_path):
    """It had lists of groups in the place of arrays."""
    group = {"prompt_ids": [1], "completion_ids": [[2], [3]], "scores": [[0.1], [0.2]], "ref_logp": []}
    torch.save({"columns": ["first"], "stores": [[group]]}, tmp_path / "replay.pt")
    with pytest.raises(UserError, match=r"replay.pt is invalid .*; move it away"):
        read_groups(tmp_path / "replay.pt", ["first"])


# ---------------------------------------------------------------------- training


def test_only_the_same_responses_with_the_same_scores_are_repetitions():
    """The same prompt with other columns of the data can have the same responses and other scores."""
    first, other = group(1), group(1)
    other.scores[1][0] = 0.0
    assert distinct([first, other, group(1), group(2)]) == [first, other, group(2)]


def test_stored_responses_are_those_of_the_rollouts(tmp_path, world):
    """Ids, scores by table, and log p0 by enumeration."""
    log_p0, scores, _ = world
    trainer = make_trainer(tmp_path, [table_reward()], **REPLAY | {"num_ppo_epochs": 1, "total_episodes": 256})
    trainer.train()
    assert trainer.replay.responses == 256
    numbers = {tuple(tabular.tokenizer()(prompt)["input_ids"]): p for p, prompt in enumerate(tabular.PROMPTS)}
    for one in trainer.replay.groups:
        assert len(one) == 8
        p = numbers[tuple(one.prompt_ids)]
        for ids, [score], logp in zip(one.completion_ids, one.scores, one.ref_logp, strict=True):
            y = tabular.responses().index(tuple(ids))
            assert score == pytest.approx((scores @ LAM)[p, y], abs=1e-5)
            assert logp == pytest.approx(log_p0[p, y], abs=1e-4)


def test_there_is_no_warm_start_without_stored_responses(tmp_path, caplog):
    trainer = make_trainer(tmp_path, [table_reward()], **REPLAY | {"warm_start_passes": 2})
    assert trainer.begun.warm_start == 0
    assert "warm_start_passes=2 needs two or more scored responses to 1 prompts or more, and 0" in caplog.text


def test_each_process_keeps_its_capacity_of_the_stored_responses():
    """10 prompts of 2 responses, two processes, capacity 6: the newest three of each share; none if one has none."""
    groups = [group(number) for number in range(10)]
    shares = [ReplayStore(6, lambda scores: scores, groups=groups) for _ in range(2)]
    for process, share in enumerate(shares):
        share.keep_share(process, 2)
    assert [[one.prompt_ids[0] for one in share.groups] for share in shares] == [[4, 6, 8], [5, 7, 9]]
    few = ReplayStore(6, lambda scores: scores, groups=groups[:1])
    few.keep_share(0, 2)
    assert few.groups == []


@pytest.mark.parametrize("micro_batches", [4, 40])
def test_the_regression_of_a_step_does_not_depend_on_the_micro_batch(tmp_path, world, micro_batches):
    """Mean of the gradients of a step's micro-batches, against one micro-batch; 40 are more than its groups."""
    replay = ReplayStore(10_000, lambda scores_NV: scores_NV[:, 0])
    rng, responses = np.random.default_rng(0), tabular.responses()
    for number in range(32):
        p = number % len(tabular.PROMPTS)
        chosen = rng.choice(len(responses), size=2 + number % 3)
        ids, scores = [list(responses[y]) for y in chosen], [[float(world[1][p, y] @ LAM)] for y in chosen]
        replay.add([Group(tabular.tokenizer()(tabular.PROMPTS[p])["input_ids"], ids, scores, [])])
    trainer = make_trainer(tmp_path, [table_reward()], replay=replay, **REPLAY | {"replay_batch": 80})
    trainer.prepare_replay()
    groups = len(trainer.replay.sample(80, trainer.seed_of("replay", 2)))

    def gradients(count: int) -> list[torch.Tensor]:
        """Of the third optimizer step."""
        trainer.args.gradient_accumulation_steps = count
        trainer.model.zero_grad()
        losses = [trainer.replay_loss(trainer.model, 2 * count + number) / count for number in range(count)]
        sum(losses).backward()
        assert sum(loss.requires_grad for loss in losses) == min(count, groups)  # no pass without a group
        return [weight.grad.clone() for weight in trainer.model.parameters() if weight.grad is not None]

    whole, parts = gradients(1), gradients(micro_batches)
    assert max(gradient.abs().max() for gradient in whole) > 1e-3
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(whole, parts, strict=True))
    trainer.replay.groups, trainer.current_gradient_accumulation_steps = [], 1
    trainer.loss(trainer.model, {}).backward()  # as in a micro-batch of the warm start without a group


def test_a_new_price_changes_the_reward_of_old_responses(tmp_path):
    trainer = make_trainer(tmp_path, [table_reward()], **REPLAY | {"num_ppo_epochs": 1, "total_episodes": 256})
    trainer.train()
    before = trainer.replayed(0)["reward"]
    trainer.reward_weights.mul_(3)
    assert torch.allclose(trainer.replayed(0)["reward"], 3 * before)


def test_the_critic_learns_from_stored_responses_and_a_constant_in_their_scores_changes_nothing(tmp_path, world):
    """Values of p0's states, on which the scores depend in the tabular world; 3 fits of 277 responses."""
    values = {}
    for shift in (0.0, 100.0):
        reward = tabular.TableReward(world[1] @ LAM + shift)
        trainer = make_trainer(tmp_path, [reward], replay=stored_responses(13, shift), **REPLAY)
        trainer.prepare_replay()
        rows = [dict(trainer.train_dataset[k % len(tabular.PROMPTS)]) for k in range(256)]
        torch.manual_seed(0)
        batch = trainer.rollout(rows)
        values[shift] = trainer.metrics["critic/explained_variance"][-1], batch["advantages"]
        assert all(len(group.ref_logp) == len(group) for group in trainer.replay.groups)
    explained, shifted = values[0.0], values[100.0]
    assert explained[0] > 0.05
    assert explained[0] == pytest.approx(shifted[0], abs=1e-3)
    torch.testing.assert_close(shifted[1], explained[1], atol=1e-2, rtol=0)


def test_the_critics_first_fits_do_not_depend_on_the_responses_in_a_pass(tmp_path):
    fitted = []
    for rows in (64, 100):
        settings = REPLAY | {"local_rollout_forward_batch_size": rows}
        trainer = make_trainer(tmp_path, [table_reward()], replay=stored_responses(13), **settings)
        trainer.prepare_replay()
        logp = torch.tensor([nats for group in trainer.replay.groups for nats in group.ref_logp])
        fitted.append([logp, *(weight.detach() for weight in trainer.critic.parameters())])
    assert len(fitted[0]) > 4
    for one, other in zip(*fitted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_passes_of_the_warm_start_are_over_the_responses_that_fit(tmp_path):
    settings = REPLAY | {"num_ppo_epochs": 1, "warm_start_passes": 10, "replay_capacity": 512}
    trainer = make_trainer(tmp_path, [table_reward()], replay=stored_responses(16), **settings)
    assert trainer.begun.warm_start == 5  # iterations of 4 x 256 responses, for 10 passes over 512


def test_the_warm_start_learns_from_stored_responses_before_the_first_rollout(tmp_path, world):
    log_p0, _, log_p_lam = world
    settings = REPLAY | {"num_ppo_epochs": 1, "total_episodes": 256, "warm_start_passes": 10, "learning_rate": 1e-3}
    settings["warm_start_learning_rate"] = 5e-3
    trainer = make_trainer(tmp_path, [table_reward()], replay=stored_responses(16), logging_steps=1, **settings)
    assert trainer.begun.warm_start == 10  # iterations of 4 x 256 responses, for 10 passes over 1024
    trainer.train()
    first = next(log for log in trainer.state.log_history if "objective/kl" in log)
    assert first["step"] == 41
    assert 0.1 < first["objective/kl"] < 1.0  # the policy of the first rollout has left p0
    assert first["critic/explained_variance"] > 0.05  # without a fit to the stored responses, 0
    assert trainer.state.log_history[39]["episodes"] == 0
    rates = [log["learning_rate"] for log in trainer.state.log_history if "learning_rate" in log]
    assert np.allclose(
        rates[:40], 5e-3 * (1 - np.arange(40) / 40)
    )  # to 0 in the warm start, and again in the rollout's steps
    assert np.allclose(rates[40:], 1e-3 * (1 - np.arange(4) / 4))
    assert trainer.state.log_history[-1]["episodes"] == 256
    assert tabular.kl(tabular.log_probs(trainer.model.eval()), log_p_lam) < 0.6 * tabular.kl(log_p0, log_p_lam)


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path):
    whole = make_trainer(tmp_path / "whole", [table_reward()], **SHORT)
    whole.train()
    cut = make_trainer(tmp_path / "whole", [table_reward()], **SHORT)
    cut.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-8"))
    assert cut.replay.groups == whole.replay.groups
    pairs = zip(whole.model.state_dict().items(), cut.model.state_dict().values(), strict=True)
    assert all(torch.equal(weight, again) for (_, weight), again in pairs)


def test_without_replay_nothing_is_stored(tmp_path):
    trainer = make_trainer(tmp_path, [table_reward()], num_ppo_epochs=1)
    trainer.train()
    assert trainer.replay.groups == []


def test_one_response_to_a_prompt_is_refused(tmp_path):
    with pytest.raises(UserError, match="num_generations=1 does not work with replay_batch=256"):
        make_trainer(tmp_path, [table_reward()], **REPLAY | {"num_generations": 1})


def test_a_capacity_below_one_prompt_is_refused(tmp_path):
    with pytest.raises(UserError, match="replay_capacity=4 is less than num_generations=8"):
        make_trainer(tmp_path, [table_reward()], **REPLAY | {"replay_capacity": 4})


@pytest.mark.parametrize(("per_prompt", "logged"), [(1, False), (2, True)])
def test_evaluation_groups_its_own_number_of_responses(tmp_path, per_prompt, logged):
    """3 prompts; the policy is p0, and num_generations=8 of training does not divide the responses."""
    settings = REPLAY | {"num_generations_eval": per_prompt, "per_device_eval_batch_size": 6}
    trainer = make_trainer(tmp_path, [table_reward()], **settings)
    trainer.eval_dataset = trainer.train_dataset.select(range(3))
    assert ("eval_objective/kl_to_target" in trainer.evaluate()) == logged


# ---------------------------------------------------------------------- where training ends

CLOSE = REPLAY | {
    "kl_coef": 0.25,
    "num_ppo_epochs": 4,
    "total_episodes": 10_240,
    "learning_rate": 5e-3,
    "replay_coef": 4.0,
    "warm_start_passes": 2,
}


def far_away(log_p0, reward_PY) -> ReplayStore:
    """2048 responses of the tilt of p0 against the reward, a policy at 2.6 nats from p_lam."""
    replay, rng = ReplayStore(20_000, lambda scores_NV: scores_NV[:, 0]), np.random.default_rng(1)
    opposite = tabular.tilted(log_p0, -reward_PY / CLOSE["kl_coef"])
    for p, prompt in enumerate(tabular.PROMPTS):
        for row in rng.choice(log_p0.shape[1], size=(32, 8), p=np.exp(opposite[p])):
            ids, scores = [list(tabular.responses()[y]) for y in row], [[reward_PY[p, y]] for y in row]
            replay.add([Group(tabular.tokenizer()(prompt)["input_ids"], ids, scores, [])])
    return replay


@pytest.mark.slow
@pytest.mark.parametrize(("critic", "weight"), [("learns", 1.0), ("wrong", 1.0), ("wrong", 1.5)])
def test_training_with_replay_ends_at_p_lam(tmp_path, world, monkeypatch, critic, weight):
    """KL(pi||p_lam) <= .03 after 10 240 responses (plain PPO: about .07), except with a wrong weight of the reward.

    The training begins with responses of a policy far from p_lam.
    """
    log_p0, scores, log_p_lam = world
    monkeypatch.setattr(
        ppo_trainer, "variance_loss", lambda ell, reward, *rest: variance_loss(ell, weight * reward, *rest)
    )
    reward_PY = CLOSE["kl_coef"] * scores @ LAM
    trainer = make_trainer(tmp_path, [tabular.TableReward(reward_PY)], replay=far_away(log_p0, reward_PY), **CLOSE)
    if critic == "wrong":
        monkeypatch.setattr(type(trainer.critic), "fit", lambda *_, **__: {})
        trainer.critic.state_head[-1].bias.data.fill_(1.0)
    trainer.train()
    reached = tabular.kl(tabular.log_probs(trainer.model.eval()), log_p_lam)
    assert (reached <= 0.03) == (weight == 1), reached
