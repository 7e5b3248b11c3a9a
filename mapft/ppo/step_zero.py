"""What must hold before the first step: the policy is its reference, and training computes the model's own numbers.

Both can fail in silence. PEFT initialises some adapters by changing the weights of the base (PiSSA, OLoRA), and trains
some that stay when the adapter is switched off (biases of the base). TRL's fused LM head multiplies the last hidden
states by the weights of the output embeddings, and knows some scalings and caps by name.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from accelerate.logging import get_logger
from peft import PeftModel
from torch import Tensor

from mapft.utils.consistency import agree, check_log_probs, difference, own_log_probs, padded_log_probs
from mapft.utils.errors import UserError
from mapft.utils.forward import Head, causal_model

NOISE = 0.2  # sd of the changes of `moved`: their effect is far above rounding, also in half precision
HEAD_TOLERANCE = 1e-5  # nats per token that rounding explains in fp32 where the states before the head are the same

logger = get_logger(__name__)


def check_policy(
    model: Any, reference: Callable[[], AbstractContextManager[Any]], initial_N: Tensor | None = None
) -> None:
    """UserError for a policy whose log-probabilities are not unique, or that is not its own reference before training.

    reference: inside, its value is p0. initial_N: `own_log_probs` of the model that was given, where it is known.
    """
    check_log_probs(model)
    with reference() as base:
        reference_N = own_log_probs(base)
    with moved(model), reference() as base:
        moved_N = own_log_probs(base)
    for what, other_N in (
        ("policy and reference differ", own_log_probs(model)),
        ("the reference and the model that was given differ", initial_N),
        ("the reference changes with the weights of the adapter", moved_N),
    ):
        if other_N is not None and not agree(reference_N, other_N, model):
            raise UserError(
                f"Before training, {what} by {difference(reference_N, other_N):.2g} nats per token, so the "
                "KL would not be to p0; give an adapter that has no effect at first and leaves the weights of its base "
                "unchanged, such as LoRA with init_lora_weights=True and bias=none."
            )


def check_training_mode(model: Any) -> None:
    """UserError for a model that is random in training mode although its dropout is off."""
    evaluation_N, training_N = own_log_probs(model), own_log_probs(model, training=True)
    if not agree(evaluation_N, training_N, model):
        raise UserError(
            f"{type(causal_model(model)).__name__} is not supported, because its log-probabilities in training mode "
            f"differ by {difference(evaluation_N, training_N):.2g} nats per token from those it is sampled with; "
            "switch off the noise in its config.json, or choose another model."
        )


def exact_head(model: Any, fused: Head, own: Head) -> Head:
    """TRL's fused LM head where its log-probabilities are those of the model's own head, else that one."""
    try:
        if agree(padded_log_probs(model, own), padded_log_probs(model, fused), model, HEAD_TOLERANCE):
            return fused
    except UserError:  # the shapes or outputs of the model are not those that the fused head expects
        pass
    logger.warning(
        f"TRL's fused LM head does not give the log-probabilities of {type(causal_model(model)).__name__}, so the "
        "model's own head is used, which is slower and holds the logits of all response tokens of a pass."
    )
    return own


@contextmanager
def moved(model: Any) -> Iterator[None]:
    """Inside, the weights of an adapter have random changes, so that all it can change shows; LoRA begins at zero."""
    weights = [weight for weight in model.parameters() if weight.requires_grad] if isinstance(model, PeftModel) else []
    before, generator = [weight.detach().clone() for weight in weights], torch.Generator().manual_seed(0)
    with torch.no_grad():
        try:
            for weight in weights:
                weight.add_(NOISE * torch.randn(weight.shape, generator=generator).to(weight))
            yield
        finally:
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
