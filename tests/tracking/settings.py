"""Settings composed as the command line composes them, without models."""

from mapft.commands.composed import with_config
from mapft.config import Config


def small_config(tracker: str = "", tracking: str = "none") -> Config:
    """A run with one value `a`. tracker: to switch on; tracking: choice of the group."""
    overrides = ["experiment=own", "model.path=m", "data.path=p.jsonl", "rewards=[]", "palette=custom"]
    overrides += ["+rewards.a.kind=length", "+palette.sd.a=0.3", f"tracking={tracking}"]
    overrides += [f"+tracking.trackers.{tracker}=true"] if tracker else []
    configs: list[Config] = []
    with_config(overrides, configs.append)
    return configs[0]
