"""Checks of a model and its tokenizer that were loaded from a folder of the user."""

from collections.abc import Mapping
from typing import Any

import torch

from mapft.utils.errors import UserError


def check_weights(model: Any, loading: Mapping[str, Any], source: str, role: str) -> None:
    """UserError for a model without weights of its own for every parameter, of the shape and finite.

    loading: of from_pretrained with output_loading_info=True and ignore_mismatched_sizes=True. source: what messages
    call the model. role: what it should be.
    """
    if missing := sorted(loading["missing_keys"]):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise UserError(
            f"{source} has no weights for {missing[0]}{more}, so they would be random; give a model that was trained "
            f"as a {role}."
        )
    if mismatched := sorted(loading["mismatched_keys"]):
        name, saved, needed = mismatched[0]
        raise UserError(
            f"{source} has a config.json that does not fit its weights: {name} has the shape {list(saved)}, and the "
            f"config needs {list(needed)}; restore the config that the model was saved with."
        )
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.itemsize > 1 and not weight.sum(dtype=torch.float32).isfinite():
            raise UserError(f"{source} has weights that are not finite numbers ({name}); save the model again.")


def check_vocabulary(ids: Mapping[str, int | None], model: Any, source: str) -> None:
    """UserError for a token id that the model has no embedding for. ids: by what the token is called in messages."""
    rows = model.get_input_embeddings().weight.size(0)
    for name, token in ids.items():
        if token is not None and token >= rows:
            raise UserError(
                f"{source} has {rows} tokens, and {name} has the id {token} in its tokenizer; give it the tokenizer "
                "that it was trained with, or resize its embeddings."
            )
