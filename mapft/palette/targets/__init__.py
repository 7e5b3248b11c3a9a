"""Kinds of target: how a palette states the target of a value. Source: paper, remark 2.

A new kind is one file here with a `TargetKind`, one line in TARGETS, one palette in conf/palette, and one row in
tests/palette/test_targets.py. Its name in TARGETS becomes a setting: palette.quantiles.humor=0.7.
"""

from mapft.palette.targets.absolute import ABSOLUTE
from mapft.palette.targets.kind import TargetKind
from mapft.palette.targets.quantiles import QUANTILES
from mapft.palette.targets.relative_gain import RELATIVE_GAIN, RELATIVE_GAIN_PROBABILITY
from mapft.palette.targets.sd import SD

__all__ = ["TARGETS", "TargetKind"]

TARGETS: dict[str, TargetKind] = {
    "quantiles": QUANTILES,
    "relative_gain": RELATIVE_GAIN,
    "relative_gain_probability": RELATIVE_GAIN_PROBABILITY,
    "sd": SD,
    "absolute": ABSOLUTE,
}
