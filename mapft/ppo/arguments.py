"""Checks of the constructor arguments that GRPOTrainer accepts but PPOTrainer does not support."""

from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from mapft.ppo.trl_seam import model_path
from mapft.utils.errors import UserError
from mapft.utils.forward import has_adapter_layers


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
    if isinstance(model, PeftModel):
        _check_adapter(model)
        peft_config = model.peft_config["default"]
    elif find_adapter_config_file(model) if isinstance(model, str) else has_adapter_layers(model):
        raise UserError(
            "The model has an adapter inside, which training would drop; load it with "
            "PeftModel.from_pretrained(base, adapter, is_trainable=True)."
        )
    if peft_config is None and not isinstance(model, str) and not model_path(model):
        raise UserError(
            "The model has neither an adapter nor a path, so its reference cannot be loaded; give peft_config, or "
            "the model's path."
        )
    if peft_config is not None and peft_config.is_prompt_learning:
        raise UserError(
            f"{type(peft_config).__name__} adds tokens before the prompt, which PPOTrainer does not support; give an "
            "adapter of the layers, such as LoraConfig."
        )


def _check_adapter(model: PeftModel) -> None:
    """UserError for an adapter that TRL would not train."""
    if "default" not in model.peft_config:
        raise UserError(
            f"The model's adapter is called {model.active_adapter}, but TRL trains the one called default; load it "
            "with PeftModel.from_pretrained(..., adapter_name='default', is_trainable=True)."
        )
    if not any(weight.requires_grad for weight in model.parameters()):
        raise UserError(
            "No weight of the model's adapter is trainable, so nothing would be trained; load it with "
            "PeftModel.from_pretrained(..., is_trainable=True)."
        )


def check_tokenizer(processing_class: Any) -> None:
    """UserError for a multimodal processor."""
    if not isinstance(processing_class, PreTrainedTokenizerBase):
        raise UserError(
            f"processing_class is a {type(processing_class).__name__}, but PPOTrainer supports text models only; give "
            "a tokenizer."
        )
