"""`mapft export`: the tuned model without an adapter, and model cards."""

import os
from pathlib import Path

from mapft.config import Quantization
from mapft.pipeline import artifacts
from mapft.pipeline.run import Run
from mapft.utils.errors import UserError
from mapft.utils.files import TEMPORARY, write_text


def check(run: Run) -> None:
    """UserError for a base that no adapter can be merged into."""
    quantization = run.config.model.quantization
    if quantization is not Quantization.none:
        raise UserError(
            f"model.quantization={quantization.value}: an adapter cannot be merged into a quantized base without "
            "loss; use the adapter itself."
        )


def export(run: Run) -> Path:
    """The adapter merged into the base -> merged/, and README.md for it and for adapter/."""
    from mapft.evaluation.card import model_card
    from mapft.sampling.models import load_adapter, load_policy

    folder = run.folder
    if not folder.merged.exists():
        policy, tokenizer = load_policy(run.config.model)
        model = load_adapter(policy, folder.adapter).merge_and_unload()
        temporary = folder.path / f".{folder.merged.name}.{os.getpid()}{TEMPORARY}"
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.rename(folder.merged)
    evaluation, record = artifacts.read_evaluation(folder), artifacts.read_run_record(folder)
    for target, library in ((folder.adapter, "peft"), (folder.merged, "transformers")):
        write_text(target / "README.md", model_card(evaluation, record.config, record.versions, library))
    return folder.merged
