"""Log-probabilities of a batch of responses under a model.

Shapes: B responses, P prompt tokens, T response tokens, N response tokens of all rows, D features.
"""

from typing import Any

import torch
from torch import Tensor

from mapft.ppo.batch import Batch, select_rows, sequence_lengths
from mapft.utils.forward import Head, response_log_probs


@torch.no_grad()
def batched_log_probs(
    model: Any, batch: Batch, head: Head, *, rows_per_pass: int, features: bool
) -> tuple[Tensor, Tensor]:
    """log p(token) (B, T) without gradients and, if requested, the input of the head before each token (B, T, D).

    Each pass runs over rows of similar length, without the columns that are padding in all of them.
    """
    mask_BT = batch["mask"]
    logp_BT = torch.zeros_like(mask_BT, dtype=torch.float32)
    features_BTD = torch.zeros(0)
    for rows in sequence_lengths(batch).argsort(stable=True).split(rows_per_pass):
        part = select_rows(batch, rows)
        logp, _, hidden_ND = response_log_probs(model, part, head)
        logp_BT[rows, : part["mask"].size(1)] = logp
        if features:
            if not features_BTD.numel():
                features_BTD = hidden_ND.new_zeros(*mask_BT.shape, hidden_ND.size(-1))
            response = part["mask"].bool()
            features_BTD[rows[:, None].expand_as(response)[response], response.nonzero()[:, 1]] = hidden_ND
    return logp_BT, features_BTD
