"""What all figures and pages share: colors for light and dark, type, sizes, and files.

Colors are those of Okabe and Ito, which color-blind readers can tell apart; every policy has its own marker too. A
figure is plotted in the light colors; in a page, each becomes the CSS variable of its name (see page.py).
"""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mapft.utils.files import TEMPORARY

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1b1f24",
    "quiet": "#59626c",
    "line": "#d3d9df",
    "shade": "#edf1f5",
    "grey": "#808a94",
    "blue": "#0072b2",
    "vermillion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
}
DARK = {
    "paper": "#14181d",
    "ink": "#e8ecf0",
    "quiet": "#a3adb8",
    "line": "#38414b",
    "shade": "#222930",
    "grey": "#8e99a4",
    "blue": "#58b0ea",
    "vermillion": "#f08a4b",
    "green": "#3cc39b",
    "purple": "#dd9bc1",
    "orange": "#edb23f",
    "sky": "#9fd4f4",
}
INK, QUIET, LINE, SHADE = LIGHT["ink"], LIGHT["quiet"], LIGHT["line"], LIGHT["shade"]
COLORS = tuple(LIGHT[name] for name in ("grey", "blue", "vermillion", "green", "purple", "orange", "sky", "ink"))
TUNED_COLOR = LIGHT["blue"]
TARGET: dict[str, Any] = {"color": INK, "linestyle": "--", "linewidth": 1}
MARKERS = "os^DvP*X<>"
LINES: tuple[Any, ...] = ("-", "--", "-.", ":")
WIDE, NARROW = 7.2, 3.5  # inches: two columns and one column of a paper
NARROW_SUFFIX = "-narrow"
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}

plt.rcParams.update(
    {
        "font.size": 8.5,
        "axes.titlesize": 9,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 8.5,
        "axes.labelcolor": QUIET,
        "axes.edgecolor": LINE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "text.color": INK,
        "text.parse_math": False,  # names of values may contain dollar signs
        "xtick.color": LINE,
        "ytick.color": LINE,
        "xtick.labelcolor": QUIET,
        "ytick.labelcolor": QUIET,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "grid.color": SHADE,
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "mapft",  # the same figure gives the same file
    }
)


def width(wide: bool) -> float:
    """Width of a figure in inches."""
    return WIDE if wide else NARROW


def panels(rows: int, columns: int, wide: bool, height: float, **options: Any) -> tuple[Figure, Any]:
    """(figure, axes[row, column]); height: of one row, in inches. options: of plt.subplots."""
    size = (width(wide), rows * height)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)


def wrapped(name: str, characters: int = 16) -> str:
    """A name in lines that leave room for the plot."""
    return "\n".join(textwrap.wrap(name, characters)) or name


def legend_below(figure: Figure, handles: Any, columns: int = 4) -> None:
    """A legend outside the axes, where it hides no data."""
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, columnspacing=1.4, handletextpad=0.5)


def save(figure: Figure, folder: Path, name: str, kinds: tuple[str, ...] = ("svg", "png")) -> None:
    """Write folder/name.svg and folder/name.png, each atomically, and close the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        temporary = folder / f".{name}.{kind}{TEMPORARY}"
        metadata = NO_METADATA if kind == "svg" else None
        figure.savefig(temporary, dpi=150, format=kind, metadata=metadata)
        temporary.replace(folder / f"{name}.{kind}")
    plt.close(figure)


def color_of(number: int) -> str:
    """Color of the policy with this number; 0 is the base policy, 1 the tuned one."""
    return COLORS[number % len(COLORS)]


def marker_of(number: int) -> str:
    """Marker of the policy with this number."""
    return MARKERS[number % len(MARKERS)]
