"""Log-probabilities of a batch of responses under a model.

Shapes: B responses, P prompt tokens, T response tokens, N response tokens of all rows, D features.
"""

from typing import Any

import torch
from torch import Tensor

from mapft.ppo.batch import Batch, select_rows, sequence_lengths
from mapft.ppo.policy import causal_model
from mapft.ppo.trl_seam import fused_log_probs
from mapft.utils.forward import model_inputs


def response_log_probs(model: Any, batch: Batch, accelerator: Any) -> tuple[Tensor, Tensor, Tensor]:
    """log p(token) and entropies (B, T) of the response tokens, fp32, and the hidden states before them (N, D).

    The token at column P + t is predicted by the state at column P + t - 1. Entropies are 0 under a reference model
    without adapter, for which TRL's head computes none.
    """
    causal = causal_model(accelerator.unwrap_model(model))
    response_BT = batch["mask"].bool()
    states_BS = torch.nn.functional.pad(response_BT, (batch["prompt_ids"].size(1) - 1, 1))
    input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention_mask = torch.cat([batch["prompt_mask"], batch["mask"]], dim=1)
    with accelerator.autocast():
        inputs = model_inputs(causal, input_ids, attention_mask)
        labels_N = batch["completion_ids"][response_BT]
        logp_N, entropy_N, hidden_ND = fused_log_probs(model, causal, inputs, labels_N, states_BS)
    zeros_BT = torch.zeros(response_BT.shape, device=response_BT.device)
    logp_BT = zeros_BT.masked_scatter(response_BT, logp_N.float())
    entropy_BT = zeros_BT if entropy_N is None else zeros_BT.masked_scatter(response_BT, entropy_N.float())
    return logp_BT, entropy_BT, hidden_ND


@torch.no_grad()
def batched_log_probs(
    model: Any, batch: Batch, accelerator: Any, *, rows_per_pass: int, features: bool
) -> tuple[Tensor, Tensor]:
    """log p(token) (B, T) without gradients and, if requested, the hidden state before each token (B, T, D).

    Each pass runs over rows of similar length, without the columns that are padding in all of them.
    """
    mask_BT = batch["mask"]
    logp_BT = torch.zeros_like(mask_BT, dtype=torch.float32)
    features_BTD = torch.zeros(0)
    for rows in sequence_lengths(batch).argsort(stable=True).split(rows_per_pass):
        part = select_rows(batch, rows)
        logp, _, hidden_ND = response_log_probs(model, part, accelerator)
        logp_BT[rows, : part["mask"].size(1)] = logp
        if features:
            if not features_BTD.numel():
                features_BTD = hidden_ND.new_zeros(*mask_BT.shape, hidden_ND.size(-1))
            response = part["mask"].bool()
            features_BTD[rows[:, None].expand_as(response)[response], response.nonzero()[:, 1]] = hidden_ND
    return logp_BT, features_BTD
