"""All settings of a run."""

from dataclasses import dataclass
from typing import Any

from mapft.config.adapter import AdapterConfig
from mapft.config.comparison import ComparisonConfig
from mapft.config.data import DataConfig
from mapft.config.decoding import DecodingConfig
from mapft.config.dual import DualConfig
from mapft.config.engine import EngineConfig
from mapft.config.evaluation import EvaluationConfig
from mapft.config.fields import Settings, require_file_name, setting
from mapft.config.launch import LaunchConfig
from mapft.config.mode import ModeConfig
from mapft.config.model import ModelConfig
from mapft.config.palette import PaletteConfig
from mapft.config.refine import RefineConfig
from mapft.config.sampling import SamplingConfig
from mapft.config.tracking import TrackingConfig
from mapft.config.trainer import TrainerConfig
from mapft.utils.errors import UserError

RESULT_GROUPS = ("model", "adapter", "data", "palette", "sampling", "engine", "dual", "mode", "trainer", "refine")


@dataclass(kw_only=True)
class Config(Settings):
    """One run. `rewards` maps each value's name to the settings of its score (mapft/rewards).

    RESULT_GROUPS, with rewards and seed, decide what is trained; the other settings do not (see identity.py).
    """

    model: ModelConfig
    adapter: AdapterConfig
    data: DataConfig
    rewards: dict[str, Any] = setting(factory=dict, help="The score of each value: {kind: ..., ...} by value name.")
    palette: PaletteConfig
    sampling: SamplingConfig
    engine: EngineConfig
    dual: DualConfig
    mode: ModeConfig
    trainer: TrainerConfig
    refine: RefineConfig
    decoding: DecodingConfig
    evaluation: EvaluationConfig
    comparison: ComparisonConfig
    tracking: TrackingConfig
    launch: LaunchConfig
    seed: int = setting(0, "Seed of every random stream.", at_least=0, below=2**32)
    name: str = setting("run", "Begins the run folder's name.", identity=False)
    output: str = setting("runs", "Folder of run folders and of the cache of samples and scores.", identity=False)
    run_dir: str | None = setting(
        None, "The run folder; null: {output}/{name}-{palette}-{hash of the settings}.", identity=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, name in (("name", self.name), ("palette.name", self.palette.name)):
            require_file_name(option, name)
        targets = {value for numbers in self.palette.kinds().values() for value in numbers}
        if not self.rewards:
            raise UserError("rewards is empty; name at least one value, for example rewards=[playground/humor].")
        if not targets <= set(self.rewards):
            raise UserError(
                f"The palette {self.palette.name!r} has a target for "
                f"{', '.join(sorted(targets - set(self.rewards)))}, which has no reward "
                f"(rewards: {', '.join(self.rewards)}; palette: {', '.join(sorted(targets))}); "
                "add the reward or choose another palette."
            )
        if not targets:
            raise UserError("The palette names no value; give a target, for example +palette.quantiles.humor=0.7.")
        self.mode.check(self, targets)
