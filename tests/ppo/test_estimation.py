"""Truth: hand arithmetic and the defining double sums, written out with loops."""

import pytest
import torch

from mapft.ppo.estimation import (
    advantages_and_returns,
    discounted,
    effective_share,
    k1,
    last_index,
    masked_moments,
    token_rewards,
    whiten,
)


def random_case(seed: int = 0, rows: int = 5, length: int = 7):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(rows, length, generator=generator, dtype=torch.float64)
    values = torch.randn(rows, length, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([7, 1, 4, 6, 2])
    mask = (torch.arange(length) < lengths[:, None]).long()
    return rewards * mask, values * mask, mask


def test_k1_and_score_by_hand():
    logp = torch.tensor([[-1.0, -2.0, -9.0], [-0.5, -9.0, -9.0]])
    ref = torch.tensor([[-1.5, -1.0, -7.0], [-0.25, -1.0, -1.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    kl = k1(logp, ref, mask)
    torch.testing.assert_close(kl, torch.tensor([[0.5, -1.0, 0.0], [-0.25, 0.0, 0.0]]))
    rewards = token_rewards(torch.tensor([3.0, -4.0]), kl, mask, kl_coef=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 3.1, 0.0], [-3.975, 0.0, 0.0]]))


def test_score_lands_on_the_last_sampled_token_even_before_tool_tokens():
    assert last_index(torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]])).tolist() == [2, 1]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.8)])
def test_gae_equals_the_double_sum(gamma: float, gae_lambda: float):
    rewards, values, mask = random_case()
    advantages, returns = advantages_and_returns(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
    for b, length in enumerate(mask.sum(1).tolist()):
        v = [*values[b, :length].tolist(), 0.0]
        delta = [rewards[b, t].item() + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * gae_lambda) ** (s - t) * delta[s] for s in range(t, length))
            assert advantages[b, t].item() == pytest.approx(expected, abs=1e-12)
            assert returns[b, t].item() == pytest.approx(expected + v[t], abs=1e-12)
        assert advantages[b, length:].abs().sum() == returns[b, length:].abs().sum() == 0


def test_with_gae_lambda_1_returns_are_reward_sums_for_any_critic():
    rewards, values, mask = random_case(1)
    _, returns = advantages_and_returns(rewards, values, mask, gamma=1.0, gae_lambda=1.0)
    remaining = rewards.flip(1).cumsum(1).flip(1) * mask
    torch.testing.assert_close(returns, remaining)


def test_a_discounted_score_is_the_return_of_a_score_at_the_end():
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0]])
    score = torch.tensor([2.0, -3.0])
    expected = torch.tensor([[0.5, 1.0, 0.0, 2.0], [-3.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(discounted(score, mask, 0.5), expected)
    zeros = torch.zeros(2, 4)
    rewards = token_rewards(score, zeros, mask, 1.0)
    _, returns = advantages_and_returns(rewards, zeros, mask, gamma=0.5, gae_lambda=1.0)
    torch.testing.assert_close(returns, expected)


def test_tool_tokens_are_skipped():
    rewards, values, _ = random_case(2, rows=5)
    mask = torch.tensor([[1, 1, 0, 0, 1, 1, 0]]).expand(5, 7)
    sampled = mask[0].bool()
    full, _ = advantages_and_returns(rewards * mask, values, mask, gamma=0.9, gae_lambda=0.8)
    dense, _ = advantages_and_returns(
        rewards[:, sampled], values[:, sampled], torch.ones(5, 4, dtype=torch.long), gamma=0.9, gae_lambda=0.8
    )
    torch.testing.assert_close(full[:, sampled], dense)


def test_whitening_uses_one_mean_and_sd_over_sampled_tokens():
    rewards, _, mask = random_case(3)
    white = whiten(rewards, mask, masked_moments(rewards, mask), 1e-4)
    sampled = white[mask.bool()]
    assert sampled.mean().item() == pytest.approx(0, abs=1e-9)
    assert sampled.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert white[~mask.bool()].abs().sum() == 0


def test_effective_share_of_weights():
    assert effective_share(torch.full((7,), 900.0)) == pytest.approx(1)
    assert effective_share(torch.tensor([0.0, -1e4, -1e4, -1e4])) == pytest.approx(1 / 4)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert effective_share(weights.log() - 50) == pytest.approx(10**2 / (4 * 30))
