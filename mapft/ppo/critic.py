"""The critic: two small heads on hidden states that the reference pass computes anyway.

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
    """V(s_t) = m + s * (now(h_t) + sum_{u <= t} so_far(h_u)), h_t the reference's last hidden state before token t.

    The score of a response is paid at its end, so a state's value holds what the tokens so far have earned; the
    running sum keeps that account, which h_t alone forgets. Explained variance on held-out prompts of the playground
    after 12 passes over 512, 2048, 3584 responses: .27, .34, .36 without the sum, .46, .54, .57 with it.

    The features are detached, so the critic is trained by its own AdamW in its own step and adds nothing to the
    policy's backward pass. m and s are the mean and sd of the returns of the last rollout: the heads work in standard
    units, and `rescale` keeps V unchanged when the units change (PopArt, van Hasselt et al. 2016). V starts at zero.
    A critic only lowers variance: with gae_lambda = 1 no critic can move the optimum.

    Compared on the tabular world of tests/ppo/tabular.py, one run each, KL(pi||p_lam) in nats after so many episodes;
    and on the playground, E R - KL in nats of the rollouts after 9 000 to 10 000 of 16 384 episodes (optimum 2.3):

        baseline                                     40 000   80 000   playground
        reference's hidden states (the default)      .015     .0078    2.19
        the same, warmed up alone for 4 iterations   .018
        policy's hidden states, one pass more                 .0069    2.16
        none but leave-one-out, 8 per prompt         .030
        reference's, and leave-one-out of its error  .018

    A LoRA adapter of its own would cost a forward and backward pass of the base per epoch; the policy's trunk, which
    moves with the task, gains next to nothing over the reference's, so there is none.
    """

    now: nn.Sequential
    so_far: nn.Sequential
    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, width: int, learning_rate: float):
        super().__init__()
        self.now = _head(features, width)
        self.so_far = _head(features, width)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=0.0)

    def forward(self, features_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Values (B, T) in units of the return, 0 where masked."""
        return (self.mean + self.scale * self._standard(features_BTD, mask_BT)) * mask_BT

    @torch.no_grad()
    def values(self, features_BTD: Tensor, mask_BT: Tensor, rows: int) -> Tensor:
        """`forward` without gradients, so many rows at a time."""
        return torch.cat([self(*part) for part in zip(features_BTD.split(rows), mask_BT.split(rows), strict=True)])

    def _standard(self, features_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        states = features_BTD.float()
        return self.now(states).squeeze(-1) + (self.so_far(states).squeeze(-1) * mask_BT).cumsum(dim=1)

    @torch.no_grad()
    def rescale(self, mean: Tensor, scale: Tensor) -> None:
        """Take the units (mean, scale) of new returns, leaving every V(s) as it was."""
        for head in (self.now, self.so_far):
            for parameter in _last(head).parameters():
                parameter.mul_(self.scale / scale)
        _last(self.now).bias.add_((self.mean - mean) / scale)
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
        reduce_mean averages a tensor over the processes, so that every process takes the same step. Returns the last
        epoch's mean loss and clip share.
        """
        count, total, squares = moments
        sd = (squares / count - (total / count) ** 2).clamp(min=0).sqrt()
        self.rescale((total / count).float(), sd.clamp(min=1e-6).float())
        old_BT = (self.values(features_BTD, mask_BT, minibatch) - self.mean) / self.scale
        target_BT = (returns_BT - self.mean) / self.scale
        seen = []
        for _ in range(epochs):
            order = torch.randperm(len(target_BT), generator=generator).to(target_BT.device)
            seen = [
                self._step(features_BTD[rows], mask_BT[rows], old_BT[rows], target_BT[rows], cliprange, reduce_mean)
                for rows in order.split(minibatch)
            ]
        loss, clipped = torch.stack(seen).mean(dim=0)
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
        chosen = mask.bool()
        values = self._standard(features, mask)
        loss, clipped = value_loss(values[chosen], old[chosen], target[chosen], cliprange)
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad = reduce_mean(parameter.grad)
        self.optimizer.step()
        return torch.stack([loss.detach(), clipped])

    def save(self, folder: Path) -> None:
        """Weights and optimizer beside the adapter of a checkpoint; the optimizer, renamed into place, comes last."""
        save_file(self.state_dict(), folder / WEIGHTS)
        temporary = folder / f".{OPTIMIZER}.mapft-tmp"
        torch.save(self.optimizer.state_dict(), temporary)
        temporary.replace(folder / OPTIMIZER)

    def load(self, folder: Path) -> None:
        """Continue from `save`."""
        self.load_state_dict(load_file(folder / WEIGHTS))
        self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))


def _head(features: int, width: int) -> nn.Sequential:
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(features), nn.Linear(features, width), nn.SiLU(), last)


def _last(head: nn.Sequential) -> nn.Linear:
    last = head[-1]
    assert isinstance(last, nn.Linear)
    return last
