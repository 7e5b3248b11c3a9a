"""From scores to advantages: the pure part of PPO between a rollout and its loss.

Shapes: B responses, T response tokens. Every (B, T) array is right-padded; mask_BT is 1 on tokens that the policy
sampled (EOS included) and 0 on padding and on tokens of a tool.
"""

import math

import torch
from torch import Tensor


def k1(logp_BT: Tensor, ref_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Log-ratio log pi(a_t|s_t) - log p0(a_t|s_t), nats per token; its sum over t is an unbiased sample of KL(pi||p0).

    With the other estimators (k2, k3), means over tokens, or the KL outside the reward, the optimum is another.
    """
    return (logp_BT - ref_logp_BT) * mask_BT


def token_rewards(score_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, kl_coef: float) -> Tensor:
    """r_t = -kl_coef * k1_t, plus the score on the last sampled token.

    The return sum_t r_t = R(x,y) - kl_coef * log pi(y|x)/p0(y|x) has the expectation E[R] - kl_coef * KL(pi||p0),
    which p0 * exp(R/kl_coef) / Z maximises (MAP, theorem 2).
    """
    rewards_BT = -kl_coef * kl_BT
    rows = torch.arange(len(score_B), device=score_B.device)
    rewards_BT[rows, last_index(mask_BT)] += score_B
    return rewards_BT


def discounted(score_B: Tensor, mask_BT: Tensor, gamma: float) -> Tensor:
    """gamma^(sampled tokens after t) * score, the return where the score at the end is the only reward, (B, T)."""
    after_BT = mask_BT.flip(1).cumsum(1).flip(1) - 1
    return score_B[:, None] * gamma**after_BT * mask_BT


def last_index(mask_BT: Tensor) -> Tensor:
    """Index of the last 1 in every row, (B,)."""
    positions = torch.arange(1, mask_BT.size(1) + 1, device=mask_BT.device)
    return (mask_BT * positions).argmax(dim=1)


def advantages_and_returns(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016) over the sampled tokens.

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t     = delta_t + gamma gae_lambda A_{t+1},        G_t = A_t + V_t,        V = A = 0 after the last token

    Masked tokens are skipped: t+1 is the next token with mask 1. With gamma = gae_lambda = 1, G_t is the sum of the
    rewards from t on for any critic. Returns (A_BT, G_BT), zero where masked.
    """
    advantages_BT = torch.zeros_like(rewards_BT)
    next_advantage = next_value = rewards_BT.new_zeros(rewards_BT.size(0))
    for t in reversed(range(rewards_BT.size(1))):
        sampled = mask_BT[:, t].bool()
        delta = rewards_BT[:, t] + gamma * next_value - values_BT[:, t]
        advantage = delta + gamma * gae_lambda * next_advantage
        next_advantage = torch.where(sampled, advantage, next_advantage)
        next_value = torch.where(sampled, values_BT[:, t], next_value)
        advantages_BT[:, t] = advantage * sampled
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def whiten(advantages_BT: Tensor, mask_BT: Tensor, moments: Tensor, least_sd: float) -> Tensor:
    """(A - mean) / sd with ONE mean and ONE sd over the tokens of all processes: the optimum does not move.

    moments: (count, sum, sum of squares) over the sampled tokens of all processes, see `masked_moments`. Where sd is
    below least_sd, advantages are the rounding of log-probabilities; they become 0.
    """
    count, total, squares = moments
    mean = total / count
    sd = (squares / count - mean**2).clamp(min=0).sqrt()
    return (advantages_BT - mean) / sd * mask_BT if sd >= least_sd else torch.zeros_like(advantages_BT)


def masked_moments(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """(count, sum, sum of squares) of x where mask is 1, float64, (3,)."""
    x, mask = x_BT.double(), mask_BT.double()
    return torch.stack([mask.sum(), (x * mask).sum(), (x**2 * mask).sum()])


def effective_share(log_weights_N: Tensor) -> float:
    """(sum w)^2 / (N sum w^2): 1 where all weights are equal, 1/N where one has all the mass."""
    weights_N = (log_weights_N.double() - log_weights_N.max()).exp()
    return (weights_N.sum() ** 2 / (len(weights_N) * weights_N.square().sum())).item()


def deviations(u_PK: Tensor) -> Tensor:
    """(u - mean over K) * sqrt(K / (K - 1)), whose variance is unbiased, (P, K)."""
    responses = u_PK.size(1)
    return (u_PK - u_PK.mean(dim=1, keepdim=True)) * (responses / (responses - 1)) ** 0.5


def log_mean_exp(u_N: Tensor) -> float:
    """log mean_n exp(u_n)."""
    return (u_N.double().logsumexp(dim=0) - math.log(len(u_N))).item()


def explained_variance(errors: Tensor, returns: Tensor) -> float:
    """1 - Var(G - V) / Var(G) over tokens, from `masked_moments` of G - V and of G; 1: a perfect critic."""

    def variance(moments: Tensor) -> float:
        count, total, squares = moments.tolist()
        return squares / count - (total / count) ** 2

    return 1 - variance(errors) / variance(returns) if variance(returns) > 0 else math.nan
