"""The machines of a run."""

from dataclasses import dataclass
from typing import ClassVar

from mapft.config.fields import Settings, setting
from mapft.utils.errors import UserError

LAUNCHERS = ("cpu", "gpu", "ddp", "fsdp2", "zero2", "zero3", "multi_node")  # files in launch/


@dataclass(kw_only=True)
class LaunchConfig(Settings):
    """The machines that `mapft plan` plans for; `mapft launch NAME` starts a run on them."""

    prefix: ClassVar[str] = "launch"
    name: str = setting(help=f"A file in launch/: {', '.join(LAUNCHERS)}.")
    processes: int = setting(1, "Processes on all machines together, one for each GPU.", at_least=1)
    memory_gb: float | None = setting(
        None, "Memory of a GPU (of the host for cpu); null: what is free on this machine.", unit="10^9 bytes", above=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in LAUNCHERS:
            raise UserError(f"launch.name={self.name} is unknown; use one of {', '.join(LAUNCHERS)}.")
