"""Pictures of a training: what it did to every value, and to the multipliers.

They are drawn from logs.jsonl, refinement.json and sequential.json, as svg and png, in colours that colour-blind
readers tell apart (Okabe and Ito).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
TARGET = {"color": "0.35", "linestyle": "--", "linewidth": 1}
FIGURES = "figures"  # folder in the run folder


def trajectories(logs: Sequence[Path], targets: Mapping[str, float]) -> Figure:
    """Mean score of the rollouts per value with its target, and its lam below, over the optimizer steps.

    logs: the logs.jsonl of every training in turn (one, or one per stage); a value that a stage does not train is not
    scored in it and leaves a gap.
    """
    lines, borders = _joined(logs)
    logged = [key.removeprefix("map/lam/") for line in lines for key in line if key.startswith("map/lam/")]
    names = [name for name in dict.fromkeys([*targets, *logged]) if name in logged]
    figure, axes = plt.subplots(
        2, len(names), figsize=(3.4 * len(names), 4.6), sharex=True, squeeze=False, layout="constrained"
    )
    for column, name in enumerate(names):
        colour, (above, below) = COLOURS[column % len(COLOURS)], axes[:, column]
        for axis, key in ((above, f"map/scores/{name}"), (below, f"map/lam/{name}")):
            for first, last in borders:
                points = [(line["at"], line[key]) for line in lines if key in line and first <= line["at"] <= last]
                if points:
                    axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.2)
            axis.spines[["top", "right"]].set_visible(False)
        if name in targets:
            above.axhline(targets[name], **TARGET)
        above.set_title(name)
        below.set_xlabel("optimizer step")
        for first, _ in borders[1:]:
            above.axvline(first, color="0.9", linewidth=0.8, zorder=0)
            below.axvline(first, color="0.9", linewidth=0.8, zorder=0)
    axes[0, 0].set_ylabel("mean score (- - target)")
    axes[1, 0].set_ylabel("λ per raw unit")
    return figure


def stages(record: Mapping[str, Any], simultaneous: Mapping[str, float], tolerance: float) -> Figure:
    """lam after every stage against the pilot's simultaneous solution, and the violation found before every stage.

    record: sequential.json; tolerance in sd. A hollow mark is a stage that was skipped.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for number, name in enumerate(record["order"]):
        colour = COLOURS[number % len(COLOURS)]
        visits = [(at, stage) for at, stage in enumerate(record["stages"], 1) if stage["value"] == name]
        steps = [at for at, _ in visits]
        left.step(
            [0, *steps, len(record["stages"])],
            [0.0, *(stage["lam"] for _, stage in visits), visits[-1][1]["lam"] if visits else 0.0],
            where="post",
            color=colour,
            label=name,
        )
        left.axhline(simultaneous[name], **(TARGET | {"color": colour}))
        right.plot(steps, [max(stage["violation_sd"], 1e-4) for _, stage in visits], color=colour, linewidth=1)
        for at, stage in visits:
            face = "white" if stage["skipped"] else colour
            right.plot(at, max(stage["violation_sd"], 1e-4), "o", color=colour, markerfacecolor=face)
    right.axhline(tolerance, **TARGET)
    right.set_yscale("log")
    left.set(xlabel="stage", ylabel="λ per raw unit (- - simultaneous, pilot)")
    right.set(xlabel="stage", ylabel="violation before the stage (sd)")
    left.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """folder/name.svg and folder/name.png, whole or not at all; the figure is closed."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("svg", "png"):
        temporary = folder / f".{name}.tmp.{kind}"
        figure.savefig(temporary, dpi=150)
        temporary.replace(folder / f"{name}.{kind}")
    plt.close(figure)


def _joined(logs: Sequence[Path]) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """All lines, each with the step `at` counted through all trainings, and the first and last step of each."""
    lines: list[dict[str, Any]] = []
    borders, offset = [], 0
    for path in logs:
        own = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        last = max((line["step"] for line in own), default=0)
        lines += [line | {"at": offset + line["step"]} for line in own]
        borders.append((offset, offset + last))
        offset += last + 1
    return lines, borders
