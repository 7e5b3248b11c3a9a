"""Truth: the same values before and after a change of units; a planted linear value function; a second load."""

from pathlib import Path

import torch

from mapft.ppo.critic import Critic
from mapft.ppo.estimation import explained_variance, masked_moments


def planted(seed: int = 0, responses: int = 600, tokens: int = 8):
    """Returns that depend on the state now and on what all states so far have earned."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.layer_norm(torch.randn(responses, tokens, 16, generator=generator), (16,))
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (responses, 1), generator=generator)
    returns = (100 + 20 * features[..., 1] + 30 * (features[..., 0] * mask).cumsum(1)) * mask
    return features, returns, mask.long()


def fit(critic: Critic, features, returns, mask, epochs: int) -> dict[str, float]:
    return critic.fit(
        features,
        returns,
        mask,
        masked_moments(returns, mask),
        epochs=epochs,
        minibatch=32,
        cliprange=float("inf"),
        generator=torch.Generator().manual_seed(1),
        reduce_mean=lambda gradient: gradient,
    )


def test_starts_at_zero_and_rescaling_keeps_every_value():
    torch.manual_seed(0)
    features, returns, mask = planted()
    critic = Critic(16, 32, 1e-2)
    assert critic(features, mask).abs().max() == 0
    fit(critic, features, returns, mask, 2)
    before = critic(features, mask)
    critic.rescale(torch.tensor(-7.0), torch.tensor(3.0))
    torch.testing.assert_close(critic(features, mask), before, rtol=1e-4, atol=1e-3)


def test_learns_a_planted_value_function_in_any_units():
    for scale in (1e-3, 1.0, 1e3):
        torch.manual_seed(0)
        features, returns, mask = planted()
        critic = Critic(16, 32, 1e-2)
        fit(critic, features, returns * scale, mask, 10)
        held_out, truth, chosen = planted(seed=9)
        with torch.no_grad():
            returns = truth * scale
            errors = returns - critic(held_out, chosen)
            moments = masked_moments(errors, chosen), masked_moments(returns, chosen)
            assert explained_variance(*moments) > 0.9


def test_saved_critic_continues_as_if_never_stopped(tmp_path: Path):
    features, returns, mask = planted()
    torch.manual_seed(0)
    straight = Critic(16, 32, 1e-2)
    fit(straight, features, returns, mask, 3)
    straight.save(tmp_path)
    resumed = Critic(16, 32, 1e-2)
    resumed.load(tmp_path)
    for critic in (straight, resumed):
        fit(critic, features, returns, mask, 3)
    assert torch.equal(straight(features, mask), resumed(features, mask))
