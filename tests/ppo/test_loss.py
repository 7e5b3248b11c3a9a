"""Truth: hand arithmetic on two responses, and torch's autograd."""

import pytest
import torch

from mapft.ppo.loss import policy_loss, value_loss


def test_policy_loss_by_hand():
    ratio = torch.tensor([[1.5, 0.5], [1.1, 7.0]])
    advantages = torch.tensor([[1.0, -1.0], [2.0, 5.0]])
    mask = torch.tensor([[1, 1], [1, 0]])
    loss, sums = policy_loss(ratio.log(), torch.zeros(2, 2), advantages, mask, cliprange=0.2, max_length=10)
    # min(1.5, 1.2)*1, min(-.5, -.8), min(1.1, 1.1)*2 -> 1.2 - .8 + 2.2
    assert loss.item() == pytest.approx(-(1.2 - 0.8 + 2.2) / (2 * 10))
    assert sums[:2].tolist() == [3, 2]  # tokens, clipped
    assert sums[3].item() == pytest.approx(3.1)  # ratios


def test_gradient_at_the_old_policy_is_the_policy_gradient():
    generator = torch.Generator().manual_seed(0)
    logp = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    advantages = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    mask = (torch.arange(6) < torch.tensor([[6], [2], [4], [1]])).long()
    loss, _ = policy_loss(logp, logp.detach(), advantages, mask, cliprange=0.2, max_length=6)
    loss.backward()
    torch.testing.assert_close(logp.grad, -advantages * mask / (4 * 6))


def test_value_loss_takes_the_worse_of_plain_and_clipped():
    values, old, returns = torch.tensor([1.0, 0.1]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    loss, clipped = value_loss(values, old, returns, cliprange=0.2)
    assert loss.item() == pytest.approx(0.5 * (0.8**2 + 0.9**2) / 2)
    assert clipped.item() == 0.5
