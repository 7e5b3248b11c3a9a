"""Where a run is logged, and on which machines it runs."""

from dataclasses import dataclass
from importlib.util import find_spec
from math import inf

from mapft.config.checks import require
from mapft.errors import UserError


@dataclass(kw_only=True)
class TrackingConfig:
    """Where training logs go besides logs.jsonl in the run folder."""

    wandb: bool = False
    tensorboard: bool = False
    project: str = "mapft"  # of W&B
    entity: str | None = None  # user or team of W&B; null: who is logged in
    group: str | None = None  # of W&B; null: the sweep, or the run with its stages
    completions_every: int | None = 8  # PPO iterations between two tables of completions; null: none

    def __post_init__(self) -> None:
        every = self.completions_every
        require(every is None or every >= 1, "tracking.completions_every", every, "at least 1, or null for none")
        if self.tensorboard and find_spec("tensorboard") is None:
            raise UserError("tracking=tensorboard needs a package that is not here; pip install 'mapft[tensorboard]'.")


@dataclass(kw_only=True)
class LaunchConfig:
    """The machines that `mapft plan` plans for; `mapft launch NAME` starts a run on them."""

    name: str  # of a file in launch/
    processes: int = 1  # of all machines; one for each GPU
    memory_gb: float | None = None  # of a GPU (of the host for `cpu`), 10^9 bytes; null: this machine's

    def __post_init__(self) -> None:
        require(self.processes >= 1, "launch.processes", self.processes, "at least 1")
        require(self.memory_gb is None or 0 < self.memory_gb < inf, "launch.memory_gb", self.memory_gb, "above 0")
