"""What all figures share: colors, markers, and files.

Colors are those of Okabe and Ito, which color-blind readers can tell apart; every policy has its own marker too.
"""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mapft.utils.files import TEMPORARY

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
TARGET: dict[str, Any] = {"color": "0.35", "linestyle": "--", "linewidth": 1}
MARKERS = "os^DvP*X<>"
LINES = ("-", "--", "-.", ":")


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write folder/name.svg and folder/name.png, each atomically, and close the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("svg", "png"):
        temporary = folder / f".{name}.{kind}{TEMPORARY}"
        figure.savefig(temporary, dpi=150, format=kind)
        temporary.replace(folder / f"{name}.{kind}")
    plt.close(figure)


def remove_frame(axis: Any) -> None:
    """Remove the upper and right edge of the axes."""
    axis.spines[["top", "right"]].set_visible(False)


def color_of(number: int) -> str:
    """Color of the policy with this number."""
    return COLORS[number % len(COLORS)]


def marker_of(number: int) -> str:
    """Marker of the policy with this number."""
    return MARKERS[number % len(MARKERS)]
