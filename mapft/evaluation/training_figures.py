"""Figures of training: scores and multipliers over the optimizer steps, and the visits of sequential mode."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mapft.evaluation.style import COLORS, TARGET, plt, remove_frame


def trajectories(logs: Sequence[Path], targets: Mapping[str, float]) -> Figure | None:
    """Of every value, the mean score of the rollouts with its target, and below it lam, over the optimizer steps.

    logs: the logs.jsonl of every training in turn (one, or one per visit). A visit scores one value, so the curves of
    the others have a gap there. Returns None where no value was logged.
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
        color, (above, below) = COLORS[column % len(COLORS)], axes[:, column]
        for axis, key in ((above, f"map/scores/{name}"), (below, f"map/lam/{name}")):
            for first, last in borders:
                points = [
                    (line["total_step"], line[key])
                    for line in lines
                    if key in line and first <= line["total_step"] <= last
                ]
                if points:
                    axis.plot(*zip(*points, strict=True), color=color, linewidth=1.2)
            remove_frame(axis)
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


def visits(record: Mapping[str, Any], simultaneous: Mapping[str, float]) -> Figure:
    """lam after every visit, with the multipliers of the simultaneous solution, and the violation before every visit.

    record: content of sequential.json. A hollow marker is a skipped visit.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for number, name in enumerate(record["order"]):
        color = COLORS[number % len(COLORS)]
        own = [(step, visit) for step, visit in enumerate(record["visits"], 1) if visit["value"] == name]
        steps = [step for step, _ in own]
        left.step(
            [0, *steps, len(record["visits"])],
            [0.0, *(visit["lam"] for _, visit in own), own[-1][1]["lam"] if own else 0.0],
            where="post",
            color=color,
            label=name,
        )
        left.axhline(simultaneous[name], **(TARGET | {"color": color}))
        right.plot(steps, [max(visit["violation_sd"], 1e-4) for _, visit in own], color=color, linewidth=1)
        for step, visit in own:
            face = "white" if visit["skipped"] else color
            right.plot(step, max(visit["violation_sd"], 1e-4), "o", color=color, markerfacecolor=face)
    right.axhline(record["tolerance"], **TARGET)
    right.set_yscale("log")
    left.set(xlabel="visit", ylabel="λ per raw unit (- - simultaneous, pilot)")
    right.set(xlabel="visit", ylabel="violation before the visit (sd)")
    left.legend(frameon=False)
    for axis in (left, right):
        remove_frame(axis)
    return figure


def _joined(logs: Sequence[Path]) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """(lines, (first, last) of each training): steps are counted through all trainings, in lines as `total_step`."""
    lines: list[dict[str, Any]] = []
    borders, offset = [], 0
    for path in logs:
        own = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        last = max((line["step"] for line in own), default=0)
        lines += [line | {"total_step": offset + line["step"]} for line in own]
        borders.append((offset, offset + last))
        offset += last + 1
    return lines, borders
