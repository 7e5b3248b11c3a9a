"""Figures of training: scores and multipliers over the optimizer steps, and the visits of sequential mode."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mapft.evaluation.style import LINE, TARGET, TUNED_COLOR, color_of, legend_below, panels, wrapped
from mapft.utils.files import read_json_lines


def trajectories(logs: Sequence[Path], targets: Mapping[str, float], wide: bool = True) -> Figure | None:
    """A row per value: the mean score of the rollouts with its target, and lam, over the optimizer steps.

    logs: the logs.jsonl of every training in turn (one, or one per visit). A visit scores one value, so the curves of
    the others have a gap there. Returns None where no value was logged.
    """
    lines, borders = _joined(logs)
    logged = [key.removeprefix("map/lam/") for line in lines for key in line if key.startswith("map/lam/")]
    names = [name for name in dict.fromkeys([*targets, *logged]) if name in logged]
    if not names:
        return None
    figure, axes = panels(len(names), 2, wide, 1.45, sharex=True)
    for (left, right), name in zip(axes, names, strict=True):
        for axis, key in ((left, f"map/scores/{name}"), (right, f"map/lam/{name}")):
            for first, last in borders:
                points = [
                    (line["total_step"], line[key])
                    for line in lines
                    if key in line and first <= line["total_step"] <= last
                ]
                if points:
                    axis.plot(*zip(*points, strict=True), color=TUNED_COLOR, linewidth=1.2)
            for first, _ in borders[1:]:
                axis.axvline(first, color=LINE, linewidth=0.6, zorder=0)
        if name in targets:
            left.axhline(targets[name], **TARGET)
        left.set_ylabel(wrapped(name))
    axes[0, 0].set_title("Mean score of the rollouts")
    axes[0, 1].set_title("λ (nats per unit)")
    for axis in axes[-1]:
        axis.set_xlabel("optimizer step")
    legend_below(figure, [Line2D([], [], **TARGET, label="target")])
    return figure


def visits(record: Mapping[str, Any], simultaneous: Mapping[str, float], wide: bool = True) -> Figure:
    """lam after every visit, with the multipliers of the simultaneous solution, and the violation before every visit.

    record: content of sequential.json. A hollow marker is a skipped visit.
    """
    figure, axes = panels(*((1, 2) if wide else (2, 1)), wide, 2.7)
    left, right = axes.flat
    for number, name in enumerate(record["order"], 1):
        color = color_of(number)
        own = [(step, visit) for step, visit in enumerate(record["visits"], 1) if visit["value"] == name]
        steps = [step for step, _ in own]
        left.step(
            [0, *steps, len(record["visits"])],
            [0.0, *(visit["lam"] for _, visit in own), own[-1][1]["lam"] if own else 0.0],
            where="post",
            color=color,
        )
        left.axhline(simultaneous[name], **(TARGET | {"color": color}))
        right.plot(steps, [max(visit["violation_sd"], 1e-4) for _, visit in own], color=color, linewidth=1)
        for step, visit in own:
            face = "none" if visit["skipped"] else color
            right.plot(step, max(visit["violation_sd"], 1e-4), "o", color=color, markerfacecolor=face)
    right.axhline(record["tolerance"], **TARGET)
    right.set_yscale("log")
    left.set(xlabel="visit", ylabel="λ (nats per unit)", title="Multipliers")
    right.set(xlabel="visit", ylabel="violation (sd)", title="Violation before the visit")
    marks = [Line2D([], [], color=color_of(number), label=name) for number, name in enumerate(record["order"], 1)]
    marks.append(Line2D([], [], **TARGET, label="simultaneous solution of the pilot; tolerance"))
    legend_below(figure, marks, columns=4 if wide else 1)
    return figure


def _joined(logs: Sequence[Path]) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """(lines, (first, last) of each training): steps are counted through all trainings, in lines as `total_step`."""
    lines: list[dict[str, Any]] = []
    borders, offset = [], 0
    for path in logs:
        own = read_json_lines(path)
        last = max((line["step"] for line in own), default=0)
        lines += [line | {"total_step": offset + line["step"]} for line in own]
        borders.append((offset, offset + last))
        offset += last + 1
    return lines, borders
