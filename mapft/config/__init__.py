"""Every setting of a run as plain dataclasses; conf/ holds the values, `mapft.cli` is the only room that knows Hydra.

Each field says its meaning, unit and off switch. A bad range is refused here, before any model is loaded.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from hashlib import blake2b
from json import dumps
from typing import Any

from mapft.config.aim import DualConfig, EstimatorName, PaletteConfig, RefineConfig, Unattainable
from mapft.config.around import LaunchConfig, TrackingConfig
from mapft.config.base import DataConfig, Dtype, Extract, ModelConfig, Quantization, SamplingConfig, TooLong
from mapft.config.checks import require
from mapft.config.closing import Choose, ComparisonConfig, DecodingConfig, EvaluationConfig, Method, PolicyConfig
from mapft.config.modes import (
    MODES,
    DPOMode,
    ModeConfig,
    PublishedMode,
    Residency,
    ScalarizedMode,
    SequentialMode,
    SimultaneousMode,
    SoupMode,
)
from mapft.config.training import AdapterConfig, Schedule, TrainerConfig, Trunk
from mapft.errors import UserError

__all__ = [
    "MODES",
    "AdapterConfig",
    "Choose",
    "ComparisonConfig",
    "Config",
    "DPOMode",
    "DataConfig",
    "DecodingConfig",
    "Dtype",
    "DualConfig",
    "EstimatorName",
    "EvaluationConfig",
    "Extract",
    "LaunchConfig",
    "Method",
    "ModeConfig",
    "ModelConfig",
    "PaletteConfig",
    "PolicyConfig",
    "PublishedMode",
    "Quantization",
    "RefineConfig",
    "Residency",
    "SamplingConfig",
    "ScalarizedMode",
    "Schedule",
    "SequentialMode",
    "SimultaneousMode",
    "SoupMode",
    "TooLong",
    "TrackingConfig",
    "TrainerConfig",
    "Trunk",
    "Unattainable",
    "fingerprint",
]


@dataclass(kw_only=True)
class Config:
    """One run, resolved. `rewards` maps each value's name to the settings of its score (see `mapft.rewards`)."""

    model: ModelConfig
    adapter: AdapterConfig
    data: DataConfig
    rewards: dict[str, Any] = field(default_factory=dict)
    palette: PaletteConfig
    sampling: SamplingConfig
    dual: DualConfig
    mode: ModeConfig
    trainer: TrainerConfig
    refine: RefineConfig
    decoding: DecodingConfig
    evaluation: EvaluationConfig
    comparison: ComparisonConfig
    tracking: TrackingConfig
    launch: LaunchConfig
    seed: int = 0
    name: str = "run"  # begins the run folder's name
    output: str = "runs"  # where run folders and the store of samples and scores lie
    run_dir: str | None = None  # null: {output}/{name}-{palette}-{fingerprint}, so the same settings meet again

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "a whole number from 0 to 4294967295")
        for setting, name in (("name", self.name), ("palette.name", self.palette.name)):
            fits = re.fullmatch(r"\w[\w.-]{0,99}", name) is not None
            require(fits, setting, name, "up to 100 letters, digits, _, - and dots: it becomes part of a folder's name")
        wanted = {value for way in self.palette.ways().values() for value in way}
        if not self.rewards:
            raise UserError("rewards is empty; name at least one value, for example rewards=[playground/humor].")
        if not wanted <= set(self.rewards):
            raise UserError(
                f"The palette {self.palette.name!r} asks for {', '.join(sorted(wanted - set(self.rewards)))}, "
                f"which no reward scores (rewards: {', '.join(self.rewards)}; palette: {', '.join(sorted(wanted))}); "
                "add the reward or choose another palette."
            )
        if not wanted:
            raise UserError("The palette names no value; give a target, for example +palette.quantiles.humor=0.7.")
        if isinstance(self.mode, ScalarizedMode) and not set(self.mode.weights) <= set(self.rewards):
            raise UserError(
                f"mode.weights names {', '.join(sorted(set(self.mode.weights) - set(self.rewards)))}, which no reward "
                f"scores (rewards: {', '.join(self.rewards)})."
            )
        order = self.mode.order if isinstance(self.mode, SequentialMode) else None
        if order is not None and (set(order) != wanted or len(order) != len(wanted)):
            raise UserError(
                f"mode.order={','.join(order)} is no order of the palette's values; it must name each of "
                f"{', '.join(sorted(wanted))} once."
            )


def fingerprint(*parts: Any) -> str:
    """12 hex digits of BLAKE2b over the settings as sorted JSON."""
    plain = [dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part for part in parts]  # type: ignore[arg-type]
    return blake2b(dumps(plain, sort_keys=True, default=str).encode(), digest_size=6).hexdigest()
