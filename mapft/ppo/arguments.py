"""Checks of the constructor arguments that GRPOTrainer accepts but PPOTrainer does not support."""

from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from mapft.ppo.trl_seam import model_path
from mapft.utils.errors import UserError

REWRITES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")  # LoRA initialisations that change the base's weights


def check_arguments(model: Any, train_dataset: Any, options: dict[str, Any]) -> None:
    """UserError for constructor arguments with which PPOTrainer would fail, or be wrong. options: the others."""
    if not isinstance(train_dataset, Dataset):
        raise UserError(
            f"train_dataset is a {type(train_dataset).__name__}, but PPO shuffles prompts by row number; give a "
            "datasets.Dataset (of a stream, load a part into memory)."
        )
    for name in ("tools", "environment_factory"):
        if options.get(name):
            raise UserError(f"{name} is set, but PPOTrainer does not support tools; leave it out.")
    peft_config = options.get("peft_config")
    if peft_config is None:
        if not isinstance(model, str | PeftModel) and not model_path(model):
            raise UserError(
                "The model has neither an adapter nor a path, so its reference cannot be loaded; give peft_config, or "
                "the model's path."
            )
        return
    if peft_config.is_prompt_learning:
        raise UserError(
            f"{type(peft_config).__name__} adds tokens before the prompt, which PPOTrainer does not support; give an "
            "adapter of the layers, such as LoraConfig."
        )
    initialisation = str(getattr(peft_config, "init_lora_weights", "")).lower()
    if initialisation.startswith(REWRITES_BASE):
        raise UserError(
            f"init_lora_weights={initialisation} rewrites the base's weights, so the base without adapter would not be "
            "the reference p0; leave it at True."
        )


def check_tokenizer(processing_class: Any) -> None:
    """UserError for a multimodal processor."""
    if not isinstance(processing_class, PreTrainedTokenizerBase):
        raise UserError(
            f"processing_class is a {type(processing_class).__name__}, but PPOTrainer supports text models only; give "
            "a tokenizer."
        )
