"""The critic: two small heads on the hidden states of the reference pass.

Shapes: B responses, T response tokens, D features.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mapft.ppo.loss import value_loss

WEIGHTS, OPTIMIZER = "critic.safetensors", "critic_optimizer.pt"


class Critic(nn.Module):
    """V(s_t) = m + s * (f(h_t) + sum_{u <= t} g(h_u)), h_t the reference's last hidden state before token t.

    The score of a response is paid at its end, so the value of a state depends on what the tokens so far contribute to
    it; h_t alone does not represent that sum well. m and s are the mean and sd of the returns of the last rollout: the
    heads predict in standard units, and `rescale` keeps V unchanged when the units change (PopArt, van Hasselt et al.
    2016). V starts at the mean of the first returns (`begin`). The features are detached: the critic has its own AdamW
    and adds nothing to the policy's backward pass. With gae_lambda = 1 a critic only lowers variance; it cannot move
    the optimum. README.md compares this critic with others.

    features: D. width: hidden units of each head.
    """

    state_head: nn.Sequential
    cumulative_head: nn.Sequential
    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, width: int, learning_rate: float):
        super().__init__()
        self.state_head = _head(features, width)
        self.cumulative_head = _head(features, width)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=0.0)

    def forward(self, features_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Values (B, T) in units of the return, 0 where masked."""
        return (self.mean + self.scale * self._standard(features_BTD, mask_BT)) * mask_BT

    @torch.no_grad()
    def values(self, features_BTD: Tensor, mask_BT: Tensor, rows: int) -> Tensor:
        """`forward` without gradients, `rows` responses at a time."""
        return torch.cat([self(*part) for part in zip(features_BTD.split(rows), mask_BT.split(rows), strict=True)])

    def _standard(self, features_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        states = features_BTD.float()
        return self.state_head(states).squeeze(-1) + (self.cumulative_head(states).squeeze(-1) * mask_BT).cumsum(dim=1)

    @torch.no_grad()
    def begin(self, moments: Tensor) -> None:
        """Before the first fit, V = mean of the returns, so that a constant in the reward has no effect."""
        if not self.optimizer.state:
            mean, sd = _mean_and_sd(moments)
            self.mean.copy_(mean)
            self.scale.copy_(sd)

    @torch.no_grad()
    def rescale(self, mean: Tensor, scale: Tensor) -> None:
        """Change the units to (mean, scale) of new returns without changing any V(s)."""
        for head in (self.state_head, self.cumulative_head):
            for parameter in _last(head).parameters():
                parameter.mul_(self.scale / scale)
        _last(self.state_head).bias.add_((self.mean - mean) / scale)
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def fit(
        self,
        features_BTD: Tensor,
        returns_BT: Tensor,
        mask_BT: Tensor,
        moments: Tensor,
        *,
        epochs: int,
        minibatch: int,
        cliprange: float,
        generator: torch.Generator,
        reduce_mean: Callable[[Tensor], Tensor],
    ) -> dict[str, Tensor]:
        """Regress V on the returns by the clipped value loss; cliprange is in sd of the return.

        moments: (count, sum, sum of squares) of the returns of all processes. minibatch: responses per step.
        reduce_mean averages a tensor over the processes, so that every process takes the same step. Returns the mean
        loss and clipped share of the last epoch.
        """
        self.rescale(*_mean_and_sd(moments))
        old_BT = (self.values(features_BTD, mask_BT, minibatch) - self.mean) / self.scale
        target_BT = (returns_BT - self.mean) / self.scale
        steps: list[Tensor] = []
        for _ in range(epochs):
            order = torch.randperm(len(target_BT), generator=generator).to(target_BT.device)
            steps = [
                self._step(features_BTD[rows], mask_BT[rows], old_BT[rows], target_BT[rows], cliprange, reduce_mean)
                for rows in order.split(minibatch)
            ]
        loss, clipped = torch.stack(steps).mean(dim=0)
        return {"loss/value_avg": loss, "val/clipfrac_avg": clipped}

    def _step(
        self,
        features: Tensor,
        mask: Tensor,
        old: Tensor,
        target: Tensor,
        cliprange: float,
        reduce_mean: Callable[[Tensor], Tensor],
    ) -> Tensor:
        response = mask.bool()
        values = self._standard(features, mask)
        loss, clipped = value_loss(values[response], old[response], target[response], cliprange)
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad = reduce_mean(parameter.grad)
        self.optimizer.step()
        return torch.stack([loss.detach(), clipped])

    def save(self, folder: Path) -> None:
        """Write weights and optimizer into a checkpoint; the optimizer last, by renaming (see `newest_complete`)."""
        save_file(self.state_dict(), folder / WEIGHTS)
        temporary = folder / f".{OPTIMIZER}.mapft-tmp"
        torch.save(self.optimizer.state_dict(), temporary)
        temporary.replace(folder / OPTIMIZER)

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote."""
        self.load_state_dict(load_file(folder / WEIGHTS))
        self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))


def _mean_and_sd(moments: Tensor) -> tuple[Tensor, Tensor]:
    count, total, squares = moments
    sd = (squares / count - (total / count) ** 2).clamp(min=0).sqrt()
    return (total / count).float(), sd.clamp(min=1e-6).float()


def _head(features: int, width: int) -> nn.Sequential:
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(features), nn.Linear(features, width), nn.SiLU(), last)


def _last(head: nn.Sequential) -> nn.Linear:
    last = head[-1]
    assert isinstance(last, nn.Linear)
    return last
