"""The clipped losses of PPO (Schulman et al. 2017) and the regression of replay, pure. Shapes as in `estimation`.

N: response tokens or, in `variance_loss`, responses.
"""

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


def variance_loss(log_ratio_N: Tensor, rewards_N: Tensor, group_N: Tensor, kl_coef: float) -> Tensor:
    """kl_coef/2 * mean over prompts of Var_k[d_k],    d_k = log pi(y_k|x)/p0(y_k|x) - R(x,y_k)/kl_coef.

    d is constant over the responses to a prompt only for pi = p0 exp(R/kl_coef)/Z, where d = -log Z(x). So this is the
    minimum for responses of ANY policy, without importance weights; there the gradient of every group is 0. For
    responses of pi itself the expected gradient is that of kl_coef * KL(pi || p_lam).
    Source: log-variance divergence, Richter et al. (2020), arXiv 2010.10436.

    group_N: number of the prompt of each response, from 0; each has two responses or more.
    """
    difference_N = log_ratio_N - rewards_N / kl_coef
    count_G = torch.bincount(group_N).to(difference_N)
    mean_G = torch.zeros_like(count_G).index_add(0, group_N, difference_N) / count_G
    square_N = (difference_N - mean_G[group_N]) ** 2
    variance_G = torch.zeros_like(count_G).index_add(0, group_N, square_N) / (count_G - 1)
    return kl_coef / 2 * variance_G.mean()


def value_loss(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, cliprange: float) -> tuple[Tensor, Tensor]:
    """1/2 mean max((V - G)^2, (V_old + clip(V - V_old, +-cliprange) - G)^2), and the clipped share."""
    clipped_N = old_values_N + (values_N - old_values_N).clamp(-cliprange, cliprange)
    plain, clip = (values_N - returns_N) ** 2, (clipped_N - returns_N) ** 2
    return 0.5 * torch.maximum(plain, clip).mean(), (clip > plain).float().mean()
