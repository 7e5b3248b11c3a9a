"""Truth: the same values before and after a change of units; a planted linear value function; a second load."""

from pathlib import Path

import torch

from mapft.ppo.critic import Critic, explained_variance
from mapft.ppo.estimation import masked_moments


def planted(seed: int = 0, tokens: int = 2000):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(tokens, 16, generator=generator)
    returns = 100 + 30 * features[:, 0] - 20 * features[:, 1]
    return features, returns


def fit(critic: Critic, features, returns, epochs: int) -> dict[str, float]:
    return critic.fit(
        features,
        returns,
        masked_moments(returns[None], torch.ones_like(returns[None])),
        epochs=epochs,
        minibatches=8,
        cliprange=float("inf"),
        generator=torch.Generator().manual_seed(1),
        reduce_mean=lambda gradient: gradient,
    )


def test_starts_at_zero_and_rescaling_keeps_every_value():
    torch.manual_seed(0)
    features, returns = planted()
    critic = Critic(16, 32, 1e-2)
    assert critic(features).abs().max() == 0
    fit(critic, features, returns, 2)
    before = critic(features)
    critic.rescale(torch.tensor(-7.0), torch.tensor(3.0))
    torch.testing.assert_close(critic(features), before, rtol=1e-4, atol=1e-3)


def test_learns_a_planted_value_function_in_any_units():
    for scale in (1e-3, 1.0, 1e3):
        torch.manual_seed(0)
        features, returns = planted()
        critic = Critic(16, 64, 1e-2)
        fit(critic, features, returns * scale, 30)
        held_out, truth = planted(seed=9)
        with torch.no_grad():
            assert explained_variance(critic(held_out), truth * scale, torch.ones_like(truth)) > 0.9


def test_saved_critic_continues_as_if_never_stopped(tmp_path: Path):
    features, returns = planted()
    torch.manual_seed(0)
    straight = Critic(16, 32, 1e-2)
    fit(straight, features, returns, 3)
    straight.save(tmp_path)
    resumed = Critic(16, 32, 1e-2)
    resumed.load(tmp_path)
    for critic in (straight, resumed):
        fit(critic, features, returns, 3)
    assert torch.equal(straight(features), resumed(features))
