"""The clipped losses of PPO (Schulman et al. 2017), pure. Shapes as in `estimation`."""

import torch
from torch import Tensor


def policy_loss(
    logp_BT: Tensor, old_logp_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, *, cliprange: float, max_length: int
) -> tuple[Tensor, Tensor]:
    """-min(rho_t A_t, clip(rho_t, 1 +- cliprange) A_t), summed over tokens, averaged over responses.

    rho_t = pi(a_t|s_t) / pi_old(a_t|s_t). The sum is divided by the CONSTANT max_length (tokens): dividing each
    response by its own length would move the optimum (README.md).
    Returns the loss and (token count, then sums over tokens of: clipped share, (log rho)^2 / 2, rho, rho^2), (5,).
    """
    log_ratio = (logp_BT - old_logp_BT) * mask_BT
    ratio = log_ratio.exp()
    unclipped = ratio * advantages_BT
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange) * advantages_BT
    loss = -(torch.minimum(unclipped, clipped) * mask_BT).sum() / (len(logp_BT) * max_length)
    per_token = torch.stack([torch.ones_like(ratio), (clipped < unclipped).float(), log_ratio**2 / 2, ratio, ratio**2])
    return loss, (per_token * mask_BT).sum(dim=(1, 2)).detach()


def value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, cliprange: float) -> tuple[Tensor, Tensor]:
    """1/2 mean max((V - G)^2, (V_old + clip(V - V_old, +-cliprange) - G)^2), and the clipped share."""
    clipped_N = old_values_N + (values_N - old_values_N).clamp(-cliprange, cliprange)
    plain, clip = (values_N - returns_N) ** 2, (clipped_N - returns_N) ** 2
    return 0.5 * torch.maximum(plain, clip).mean(), (clip > plain).float().mean()
