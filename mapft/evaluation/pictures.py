"""Pictures of a run: what was promised and what came of it, what it costs, and how training went.

Saved as svg and png, in colours that colour-blind readers tell apart (Okabe and Ito); points have a mark of their
own for every policy too.

Legend: N samples.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import tau
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mapft.palette import DualSolution, RewardMatrix, pareto_front
from mapft.sampling.store import TEMPORARY

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
TARGET: dict[str, Any] = {"color": "0.35", "linestyle": "--", "linewidth": 1}
MARKS = "os^DvP*X<>"
LINES = ("-", "--", "-.", ":")
FIGURES = "figures"  # folder in the run folder


def promise(summary: Mapping[str, Any]) -> Figure:
    """Level of every value, in sd above the base level: asked, predicted, and realized by each policy."""
    values, policies = summary["values"], summary["policies"]
    figure, axis = plt.subplots(figsize=(1.6 + 1.5 * len(values), 3.6), layout="constrained")
    for place, (name, value) in enumerate(values.items()):
        sd, base = value["sd"] or 1.0, policies["base"]["levels"][name]["mean"]
        if value["target"] is not None:
            axis.hlines((value["target"] - base) / sd, place - 0.4, place + 0.4, **TARGET)
        axis.plot(place - 0.3, (value["predicted"] - base) / sd, "_", color="0.2", markersize=14)
        for number, (policy, described) in enumerate(policies.items()):
            mean, low, high = (described["levels"][name][key] for key in ("mean", "low", "high"))
            axis.errorbar(
                place - 0.15 + 0.5 * number / len(policies),
                (mean - base) / sd,
                [[(mean - low) / sd], [(high - mean) / sd]],
                fmt=_mark(number),
                color=_colour(number),
                capsize=2,
                label=policy if place == 0 else None,
            )
    axis.plot([], [], "_", color="0.2", markersize=14, label="predicted")
    axis.plot([], [], **TARGET, label="target")
    axis.set_xticks(range(len(values)), list(values))
    axis.set_ylabel("level above base (sd)")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _open(axis)
    return figure


def radar(matrix: RewardMatrix, summary: Mapping[str, Any]) -> Figure:
    """Every policy's level of each value as a quantile of the base scores: the share of samples that score less.

    With one or two values, which span no area, as bars.
    """
    rings = {name: _quantiles(matrix, found["levels"]) for name, found in summary["policies"].items()}
    asked = {name: value["target"] for name, value in summary["values"].items()}
    target = [np.nan if c is None else float((matrix.column(name) < c).mean()) for name, c in asked.items()]
    if len(asked) < 3:
        return _bars(list(asked), rings, target)
    figure, axis = plt.subplots(figsize=(5, 4), subplot_kw={"projection": "polar"}, layout="constrained")
    angles = np.append(np.linspace(0, tau, len(asked), endpoint=False), 0.0)
    for number, (name, ring) in enumerate(rings.items()):
        colour = _colour(number)
        axis.plot(angles, [*ring, ring[0]], marker=_mark(number), color=colour, linewidth=1.4, label=name)
    axis.plot(angles, [*target, target[0]], **TARGET, label="target")
    axis.set_xticks(angles[:-1], list(asked))
    axis.set_ylim(0, 1)
    axis.set_yticks([0.25, 0.5, 0.75, 1.0], ["25 %", "50 %", "75 %", ""])
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.1, 0.5))
    return figure


def front(
    matrix: RewardMatrix,
    solution: DualSolution,
    summary: Mapping[str, Any],
    kls: Sequence[float] | None = None,
    palettes: Sequence[Mapping[str, float]] | None = None,
) -> Figure:
    """Levels of every two values that have a target: policies, the palette's corner, and theorem 3's front.

    The front is the best that the two levels can be together within the palette's own predicted KL, all other values
    free. summary: of `summarize`, or anything with its `policies` (points) and an optional `family` by policy. kls: one
    front for each, in nats, instead; palettes: the corners of several, instead of the shaded one.
    """
    fronts = [kl for kl in (kls if kls is not None else [solution.kl]) if kl > 0]
    pairs = list(combinations(solution.targets, 2)) or [(next(iter(solution.targets)),) * 2]
    figure, axes = plt.subplots(
        1, len(pairs), figsize=(3.5 * len(pairs) + 1.2, 3.4), squeeze=False, layout="constrained"
    )
    families = dict.fromkeys(found.get("family", name) for name, found in summary["policies"].items())
    look = {family: (_mark(number), _colour(number)) for number, family in enumerate(families)}
    for axis, (x, y) in zip(axes[0], pairs, strict=True):
        for name, found in summary["policies"].items():
            mark, colour = look[found.get("family", name)]
            across, up = found["levels"][x], found["levels"][y]
            axis.errorbar(
                across["mean"],
                up["mean"],
                _half(up),
                _half(across),
                fmt=mark,
                color=colour,
                markersize=5,
                elinewidth=0.7,
            )
        for number, kl in enumerate(fronts if x != y else ()):
            best = pareto_front(matrix, [x, y], 60, kl=kl, estimator=solution.estimator).levels_nV
            axis.plot(*best.T, color="0.3", linewidth=1, linestyle=LINES[number % len(LINES)], zorder=1)
        if palettes is None:
            _shade(axis, solution.targets[x], solution.targets[y])
        for palette in palettes or ():
            if x in palette and y in palette:
                axis.plot(palette[x], palette[y], "+", color="0.35", markersize=11)
        axis.set(xlabel=x, ylabel=y)
        _open(axis)
    for family, (mark, colour) in look.items():
        axes[0, -1].plot([], [], mark, color=colour, label=family)
    for number, kl in enumerate(fronts if len(solution.targets) > 1 else ()):
        line = LINES[number % len(LINES)]
        axes[0, -1].plot([], [], color="0.3", linewidth=1, linestyle=line, label=f"front at {kl:.2f} nats")
    if palettes is not None:
        axes[0, -1].plot([], [], "+", color="0.35", markersize=11, label="palette")
    axes[0, -1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def distributions(tables: Mapping[str, pd.DataFrame], solution: DualSolution) -> Figure:
    """Histogram of every value's scores on held-out prompts, one outline for each policy, with the target."""
    names = list(solution.lam)
    figure, axes = plt.subplots(1, len(names), figsize=(3.2 * len(names), 2.8), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        bins = np.histogram_bin_edges(np.concatenate([table[name].to_numpy(float) for table in tables.values()]), 40)
        for number, (policy, table) in enumerate(tables.items()):
            scores_N = table[name].to_numpy(float)
            axis.hist(
                scores_N,
                bins.tolist(),
                weights=np.full(len(scores_N), 1 / len(scores_N)),
                histtype="step",
                color=_colour(number),
                linewidth=1.2,
                linestyle=LINES[number % len(LINES)],
                label=policy,
            )
        if name in solution.targets:
            axis.axvline(solution.targets[name], **TARGET)
        axis.set(xlabel=name, yticks=[])
        _open(axis)
    axes[0, 0].set_ylabel("share of responses")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def trajectories(logs: Sequence[Path], targets: Mapping[str, float]) -> Figure | None:
    """Mean score of the rollouts per value with its target, and its lam below, over the optimizer steps.

    logs: the logs.jsonl of every training in turn (one, or one per stage); a value that a stage does not train is not
    scored in it and leaves a gap. None where no value was logged.
    """
    lines, borders = _joined(logs)
    logged = [key.removeprefix("map/lam/") for line in lines for key in line if key.startswith("map/lam/")]
    names = [name for name in dict.fromkeys([*targets, *logged]) if name in logged]
    if not names:
        return None
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
            _open(axis)
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
        _open(axis)
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """folder/name.svg and folder/name.png, whole or not at all; the figure is closed."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("svg", "png"):
        temporary = folder / f".{name}.{kind}{TEMPORARY}"
        figure.savefig(temporary, dpi=150, format=kind)
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


def _quantiles(matrix: RewardMatrix, levels: Mapping[str, Mapping[str, float]]) -> list[float]:
    return [float((matrix.column(name) < level["mean"]).mean()) for name, level in levels.items()]


def _bars(names: list[str], rings: Mapping[str, list[float]], target: list[float]) -> Figure:
    figure, axis = plt.subplots(figsize=(1.5 + 1.6 * len(names), 3.2), layout="constrained")
    places, width = np.arange(len(names)), 0.8 / len(rings)
    for number, (policy, ring) in enumerate(rings.items()):
        axis.bar(places + width * (number + 0.5) - 0.4, ring, width, color=_colour(number), label=policy)
    for place, quantile in enumerate(target):
        axis.hlines(quantile, place - 0.45, place + 0.45, **TARGET)
    axis.set_xticks(places, names)
    axis.plot([], [], **TARGET, label="target")
    axis.set(ylim=(0, 1), ylabel="quantile of the base scores")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _open(axis)
    return figure


def _shade(axis: Any, x: float, y: float) -> None:
    """The palette's corner: every level to the upper right of it is asked for or better."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    right, top = max(right, x + 0.1 * (right - left)), max(top, y + 0.1 * (top - bottom))
    left, bottom = min(left, x), min(bottom, y)
    axis.fill_between([x, right], y, top, color="0.92", zorder=0)
    axis.set(xlim=(left, right), ylim=(bottom, top))


def _half(level: Mapping[str, float]) -> list[list[float]]:
    return [[level["mean"] - level["low"]], [level["high"] - level["mean"]]]


def _open(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _mark(number: int) -> str:
    return MARKS[number % len(MARKS)]
