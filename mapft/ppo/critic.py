"""The critic: a small head on hidden states that the reference pass computes anyway.

Shapes: B responses, T response tokens, D features, N tokens of all responses with mask 1.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mapft.ppo.loss import value_loss

WEIGHTS, OPTIMIZER = "critic.safetensors", "critic_optimizer.pt"


class Critic(nn.Module):
    """V(s_t) = m + s * head(h_t), h_t the reference model's last hidden state before token t.

    The features are frozen, so the critic is trained by its own AdamW in its own step and adds nothing to the
    policy's backward pass. m and s are the mean and sd of the returns of the last rollout: the head works in
    standard units, and `rescale` keeps V unchanged when the units change (PopArt, van Hasselt et al. 2016).
    The head starts at zero. A critic only lowers variance: with gae_lambda = 1 no critic can move the optimum.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, width: int, learning_rate: float):
        super().__init__()
        self.head = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, width), nn.SiLU(), nn.Linear(width, 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        nn.init.zeros_(self._last.weight)
        nn.init.zeros_(self._last.bias)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=0.0)

    @property
    def _last(self) -> nn.Linear:
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        return last

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) -> (...), in units of the return."""
        return self.mean + self.scale * self.head(features.float()).squeeze(-1)

    @torch.no_grad()
    def rescale(self, mean: Tensor, scale: Tensor) -> None:
        """Take the units (mean, scale) of new returns, leaving every V(s) as it was."""
        last = self._last
        last.weight *= self.scale / scale
        last.bias.copy_((self.scale * last.bias + self.mean - mean) / scale)
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def fit(
        self,
        features_ND: Tensor,
        returns_N: Tensor,
        moments: Tensor,
        *,
        epochs: int,
        minibatches: int,
        cliprange: float,
        generator: torch.Generator,
        reduce_mean: Callable[[Tensor], Tensor],
    ) -> dict[str, float]:
        """Regress V on the returns by the clipped value loss; cliprange is in sd of the return.

        moments: (count, sum, sum of squares) of the returns of all processes. reduce_mean averages a tensor over
        the processes, so that every process takes the same step. Returns the last epoch's mean loss and clip share.
        """
        count, total, squares = moments
        sd = (squares / count - (total / count) ** 2).clamp(min=0).sqrt()
        self.rescale((total / count).float(), sd.clamp(min=1e-6).float())
        with torch.no_grad():
            old_N = self.head(features_ND.float()).squeeze(-1)
        target_N = (returns_N - self.mean) / self.scale
        seen = []
        for _ in range(epochs):
            order = torch.randperm(len(target_N), generator=generator).to(target_N.device)
            seen = [
                self._step(features_ND[rows], old_N[rows], target_N[rows], cliprange, reduce_mean)
                for rows in order.tensor_split(minibatches)
            ]
        loss, clipped = torch.stack(seen).mean(dim=0).tolist()
        return {"loss/value_avg": loss, "val/clipfrac_avg": clipped}

    def _step(
        self, features: Tensor, old: Tensor, target: Tensor, cliprange: float, reduce_mean: Callable[[Tensor], Tensor]
    ) -> Tensor:
        loss, clipped = value_loss(self.head(features.float()).squeeze(-1), old, target, cliprange)
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad = reduce_mean(parameter.grad)
        self.optimizer.step()
        return torch.stack([loss.detach(), clipped])

    def save(self, folder: Path) -> None:
        """Weights and optimizer beside the adapter of a checkpoint."""
        save_file(self.state_dict(), folder / WEIGHTS)
        torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)

    def load(self, folder: Path) -> None:
        """Continue from `save`."""
        self.load_state_dict(load_file(folder / WEIGHTS))
        self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True))


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float:
    """1 - Var(G - V) / Var(G) over the tokens of one rollout, before the fit; 1 is a perfect critic, 0 a constant."""
    values_N, returns_N = values_BT[mask_BT.bool()], returns_BT[mask_BT.bool()]
    variance = returns_N.var().item()
    return 1 - (returns_N - values_N).var().item() / variance if variance > 0 else math.nan
