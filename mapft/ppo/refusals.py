"""What GRPOTrainer's constructor takes and PPOTrainer would fail on, or be wrong with."""

from typing import Any

from peft import PeftModel

from mapft.errors import UserError

REWRITES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")  # LoRA initialisations that change the base's weights


def refuse_what_ppo_cannot_do(model: Any, options: dict[str, Any]) -> None:
    """Raises UserError for constructor arguments of GRPOTrainer that PPOTrainer would fail on, or be wrong with."""
    for name in ("tools", "environment_factory"):
        if options.get(name):
            raise UserError(f"{name} is set; PPOTrainer offers no tools: drop it.")
    peft_config = options.get("peft_config")
    if peft_config is None and not isinstance(model, str | PeftModel) and not model.config._name_or_path:
        raise UserError(
            "The model has neither an adapter nor a path, so its reference cannot be loaded; give peft_config, or the "
            "model's path."
        )
    if peft_config is not None and peft_config.is_prompt_learning:
        raise UserError(
            f"{type(peft_config).__name__} puts its own tokens before the prompt; PPOTrainer takes adapters in the "
            "layers, such as LoraConfig."
        )
    start = str(getattr(peft_config, "init_lora_weights", "")).lower()
    if start.startswith(REWRITES_BASE):
        raise UserError(
            f"init_lora_weights={start} rewrites the base's weights, so the base without adapter would no longer be "
            "the reference p0; leave it at True."
        )
