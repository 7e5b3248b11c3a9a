"""The training modes, one file each; TRAINERS names them.

A new mode is one file with a `ModeConfig`, one line in TRAINERS, one YAML in conf/mode, and one row in
tests/training/modes/test_contract.py. Importing this package loads no torch.
"""

from mapft.config import ModeConfig
from mapft.training.modes.dpo import DPO
from mapft.training.modes.published import Published
from mapft.training.modes.scalarized import Scalarized
from mapft.training.modes.sequential import Sequential
from mapft.training.modes.simultaneous import Simultaneous
from mapft.training.modes.soup import Soup

TRAINERS: dict[str, type[ModeConfig]] = {
    "simultaneous": Simultaneous,
    "sequential": Sequential,
    "scalarized": Scalarized,
    "soup": Soup,
    "published": Published,
    "dpo": DPO,
}
