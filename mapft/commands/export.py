"""`mapft export`: the tuned model without an adapter, and model cards."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from mapft.config import ModelConfig, Quantization
from mapft.pipeline import artifacts
from mapft.pipeline.run import Run
from mapft.pipeline.train import check as check_trainable
from mapft.utils.errors import UserError
from mapft.utils.files import TEMPORARY, write_text
from mapft.utils.locks import own_name


def check(run: Run) -> None:
    """UserError for a base that no adapter can be trained on, or merged into."""
    quantization = run.config.model.quantization
    if quantization is not Quantization.none:
        raise UserError(
            f"model.quantization={quantization.value}: an adapter cannot be merged into a quantized base without "
            "loss; use the adapter itself."
        )
    check_trainable(run)


def export(run: Run) -> Path:
    """The adapter merged into the base -> merged/, and README.md for it and for adapter/."""
    from mapft.evaluation.card import model_card

    folder = run.folder
    if not folder.merged.exists():
        temporary = folder.path / f".{folder.merged.name}.{own_name()}{TEMPORARY}"
        write_merged(run.config.model, folder.adapter, temporary)
        temporary.rename(folder.merged)
    evaluation, record = artifacts.read_evaluation(folder), artifacts.read_run_record(folder)
    for target, library in ((folder.adapter, "peft"), (folder.merged, "transformers")):
        write_text(target / "README.md", model_card(evaluation, record.config, record.versions, library))
    return folder.merged


def write_merged(model: ModelConfig, adapter: Path, folder: Path) -> None:
    """The model with the adapter merged into it, and its tokenizer, as a folder of transformers.

    UserError, and no folder, unless the model in it has the log-probabilities of base and adapter.
    """
    from mapft.sampling.models import load_adapter, load_policy
    from mapft.utils.consistency import agree, difference, own_log_probs
    from mapft.utils.device import free_memory

    policy, tokenizer = load_policy(model)
    tuned = load_adapter(policy, adapter)
    apart_N = own_log_probs(tuned)
    untie_embeddings(tuned.get_base_model())
    merged = tuned.merge_and_unload()
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del policy, tuned, merged
    free_memory()
    written, _ = load_policy(dataclasses.replace(model, path=str(folder), revision=None, adapter=None))
    merged_N = own_log_probs(written)
    if not agree(apart_N, merged_N, written):
        shutil.rmtree(folder)
        raise UserError(
            f"{adapter} cannot be merged into {model.path}: the merged model differs from base and adapter by "
            f"{difference(apart_N, merged_N):.2g} nats per token; use the adapter itself."
        )


def untie_embeddings(causal: Any) -> None:
    """Give input and output embeddings their own weights where an adapter changes one of them and they are tied."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    first, last = causal.get_input_embeddings(), causal.get_output_embeddings()
    if first.weight is last.weight and any(isinstance(layer, BaseTunerLayer) for layer in (first, last)):
        layer = last.get_base_layer() if isinstance(last, BaseTunerLayer) else last
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        causal.config.tie_word_embeddings = causal.config.get_text_config().tie_word_embeddings = False
