"""The LoRA adapter that is trained."""

from dataclasses import dataclass
from typing import ClassVar

from mapft.config.fields import Settings, pattern_error, require, setting


@dataclass(kw_only=True)
class AdapterConfig(Settings):
    """The LoRA adapter that is trained; the frozen base serves as reference policy and critic trunk."""

    prefix: ClassVar[str] = "adapter"
    r: int = setting(16, "Rank.", at_least=1)
    alpha: int = setting(32, "Numerator of the scale alpha / r.")
    target_modules: str = setting(
        "all-linear", "all-linear (without the LM head), or a regular expression over module names."
    )
    use_rslora: bool = setting(False, "Scale by alpha / sqrt(r) instead of alpha / r.")
    use_dora: bool = setting(False, "Learn the magnitude of each weight row apart from its direction (DoRA).")

    def __post_init__(self) -> None:
        super().__post_init__()
        error = pattern_error(self.target_modules)
        require(
            not error, "adapter.target_modules", self.target_modules, f"all-linear or a regular expression ({error})"
        )
