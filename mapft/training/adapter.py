"""The LoRA adapter that a mode trains: made, checked before the pilot, and saved."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from mapft.config import Config
from mapft.ppo.policy import switch_off_dropout
from mapft.ppo.step_zero import check_policy, check_training_mode, moved
from mapft.sampling.models import base_policy_active, load_adapter, load_policy
from mapft.utils.consistency import agree, difference, own_log_probs
from mapft.utils.errors import UserError, first_sentence
from mapft.utils.files import TEMPORARY


def lora_config(config: Config) -> LoraConfig:
    """LoRA without dropout, so that two passes agree."""
    return LoraConfig(
        r=config.adapter.r,
        lora_alpha=config.adapter.alpha,
        lora_dropout=0.0,
        target_modules=config.adapter.target_modules,
        use_rslora=config.adapter.use_rslora,
        use_dora=config.adapter.use_dora,
        task_type="CAUSAL_LM",
        revision=config.model.revision,
    )


def check_trainable(config: Config) -> None:
    """UserError for a model that cannot be trained, or that the adapter of these settings does not fit."""
    policy, _ = load_policy(config.model)
    switch_off_dropout(policy)
    check_training_mode(policy)
    with fitting(policy, config):
        if not config.model.adapter:
            policy = get_peft_model(policy, lora_config(config))
            check_policy(policy, lambda: base_policy_active(policy))
        if isinstance(policy.get_output_embeddings(), BaseTunerLayer):
            raise UserError("TRL does not train an adapter of the output embeddings")
        _check_saved(policy)


@contextmanager
def fitting(policy: Any, config: Config) -> Iterator[None]:
    """Inside, an error of PEFT, or a check that fails, is a UserError about adapter.target_modules."""
    modules = policy.named_modules()
    layers = {name.rpartition(".")[2] for name, module in modules if isinstance(module, nn.Linear | Conv1D)}
    try:
        yield
    except ValueError as error:
        start, reason = config.model.adapter, first_sentence(error.__cause__ or error)
        what = f"model.adapter={start}" if start else f"adapter.target_modules={config.adapter.target_modules}"
        instead = "start from another adapter, of" if start else "set it to a regular expression for the names of"
        raise UserError(
            f"{what} does not fit {config.model.path} ({reason}); {instead} some of its layers "
            f"({', '.join(sorted(layers))})."
        ) from error


def _check_saved(tuned: Any) -> None:
    """UserError for an adapter that is another one after it was saved and loaded; `tuned` loses its adapter."""
    with moved(tuned), TemporaryDirectory() as folder:
        tuned.save_pretrained(folder)
        saved_N = own_log_probs(tuned)
        loaded_N = own_log_probs(load_adapter(tuned.unload(), Path(folder)))
    if not agree(saved_N, loaded_N, tuned):
        nats = difference(saved_N, loaded_N)
        raise UserError(f"The adapter differs by {nats:.2g} nats per token after it was saved and loaded.")


def save_adapter(trainer: Any, adapter: Path) -> None:
    """Write the trained adapter atomically; every process must call this."""
    temporary = adapter.with_name(f".{adapter.name}{TEMPORARY}")
    trainer.save_model(str(temporary))
    if trainer.accelerator.is_main_process:
        shutil.rmtree(temporary / "ref", ignore_errors=True)  # PEFT saves the frozen reference adapter too
        temporary.rename(adapter)
    trainer.accelerator.wait_for_everyone()
