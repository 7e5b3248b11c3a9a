"""One training loop for all models of the world: Muon on the weight matrices, Adam on everything else.

Muon (Jordan et al. 2024) replaces a matrix's momentum by its nearest semi-orthogonal matrix. On this text it needs
about half the tokens of Adam. It is written out here, in fp32 and for stacks of equal shapes: `torch.optim.Muon`
works matrix by matrix in bfloat16, which many CPUs emulate slowly.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

WARM_UP = 0.05  # share of the steps in which the learning rate rises
COOL_DOWN = 0.6  # share of the steps in which it falls again, linearly to zero

Batch = dict[str, Tensor]


def fit(
    model: nn.Module, batches: Sequence[Batch], *, matrix_lr: float, lr: float, on_step: Callable[[int], None]
) -> None:
    """Minimise `model(**batch).loss` with one step per batch; `on_step` is told how many are done."""
    matrices, others = _split(model)
    optimizers = [Muon(matrices, matrix_lr), torch.optim.AdamW(others, lr, betas=(0.9, 0.95), weight_decay=0.01)]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, len(batches))) for optimizer in optimizers
    ]
    model.train()
    for step, batch in enumerate(batches, start=1):
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad()
        on_step(step)
    model.eval()


def _split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices inside the transformer blocks, and all other parameters."""
    inner = {id(p) for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name}
    parameters = list(model.parameters())
    return [p for p in parameters if id(p) in inner], [p for p in parameters if id(p) not in inner]


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / (WARM_UP * steps), (steps - step) / (COOL_DOWN * steps))


class Muon(torch.optim.Optimizer):
    """W <- W - lr * sqrt(max(1, rows / columns)) * orthogonalise(Nesterov momentum of the gradient)."""

    def __init__(self, params: Sequence[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for shape in sorted({p.shape for p in group["params"]}):
                same = [p for p in group["params"] if p.shape == shape]
                updates = orthogonalise(torch.stack([self._momentum(p, group["momentum"]) for p in same]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(same, updates, strict=True):
                    parameter.sub_(update, alpha=scale)

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        assert parameter.grad is not None
        average: Tensor = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
        average.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)


def orthogonalise(stack: Tensor) -> Tensor:
    """U V^T of each matrix U S V^T in the stack (N, rows, columns), roughly: five quintic Newton-Schulz steps."""
    tall = stack.shape[-2] > stack.shape[-1]
    x = stack.mT if tall else stack
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x
