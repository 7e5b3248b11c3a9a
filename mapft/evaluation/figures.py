"""Figures of an evaluation: predicted and realized levels, the front at the palette's KL, and scores.

Legend: N samples.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import tau
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mapft.config.run_folder import RunFolder
from mapft.evaluation.result import Estimate, Evaluation, PolicyResult
from mapft.evaluation.style import LINES, TARGET, color_of, marker_of, plt, remove_frame, save
from mapft.evaluation.training_figures import trajectories, visits
from mapft.palette import DualSolution, ScoreMatrix, pareto_front
from mapft.utils.files import read_json


def run_figures(
    folder: RunFolder, matrix: ScoreMatrix, evaluation: Evaluation, tables: Mapping[str, pd.DataFrame]
) -> dict[str, str]:
    """Write all figures of a run to folder.figures; returns {file name without suffix: caption}."""
    solution, policies = evaluation.solution, evaluation.policies
    figures = {
        "levels": (levels(evaluation), "Predicted on the pilot, and realized on held-out prompts."),
        "radar": (radar(matrix, evaluation), "Level of each value as a quantile of the base scores."),
        "front": (front(matrix, solution, policies), "Levels in pairs, with the front at the palette's KL."),
        "distributions": (distributions(tables, solution), "Scores of each policy on the held-out prompts."),
    }
    folders = [folder]
    if folder.sequential.exists():
        record = read_json(folder.sequential)
        folders = [RunFolder(folder.path / visit["folder"]) for visit in record["visits"]]
        figures["visits"] = (visits(record, solution.lam), "Multipliers and violations at every visit.")
    logs = [trained.logs for trained in folders if trained.logs.exists()]  # none where p0 meets the palette
    trajectory = trajectories(logs, solution.targets)
    if trajectory is not None:
        figures["trajectories"] = (trajectory, "Mean scores and multipliers during training.")
    for name, (figure, _) in figures.items():
        save(figure, folder.figures, name)
    return {name: caption for name, (_, caption) in figures.items()}


def levels(evaluation: Evaluation) -> Figure:
    """Level of every value in sd above the base level: target, predicted, and realized by each policy."""
    values, policies = evaluation.values, evaluation.policies
    figure, axis = plt.subplots(figsize=(1.6 + 1.5 * len(values), 3.6), layout="constrained")
    for place, (name, value) in enumerate(values.items()):
        sd, base = value.sd or 1.0, evaluation.base.levels[name].mean
        if value.target is not None:
            axis.hlines((value.target - base) / sd, place - 0.4, place + 0.4, **TARGET)
        axis.plot(place - 0.3, (value.predicted - base) / sd, "_", color="0.2", markersize=14)
        for number, (policy, result) in enumerate(policies.items()):
            level = result.levels[name]
            axis.errorbar(
                place - 0.15 + 0.5 * number / len(policies),
                (level.mean - base) / sd,
                [[(level.mean - level.low) / sd], [(level.high - level.mean) / sd]],
                fmt=marker_of(number),
                color=color_of(number),
                capsize=2,
                label=policy if place == 0 else None,
            )
    axis.plot([], [], "_", color="0.2", markersize=14, label="predicted")
    axis.plot([], [], **TARGET, label="target")
    axis.set_xticks(range(len(values)), list(values))
    axis.set_ylabel("level above base (sd)")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    remove_frame(axis)
    return figure


def radar(matrix: ScoreMatrix, evaluation: Evaluation) -> Figure:
    """Every policy's level of each value as a quantile of the base scores: the share of base samples that score less.

    One or two values, which span no area, are shown as bars.
    """
    rings = {name: _quantiles(matrix, result.levels) for name, result in evaluation.policies.items()}
    targets = {name: value.target for name, value in evaluation.values.items()}
    target = [np.nan if c is None else float((matrix.column(name) < c).mean()) for name, c in targets.items()]
    if len(targets) < 3:
        return _bars(list(targets), rings, target)
    figure, axis = plt.subplots(figsize=(5, 4), subplot_kw={"projection": "polar"}, layout="constrained")
    angles = np.append(np.linspace(0, tau, len(targets), endpoint=False), 0.0)
    for number, (name, ring) in enumerate(rings.items()):
        color = color_of(number)
        axis.plot(angles, [*ring, ring[0]], marker=marker_of(number), color=color, linewidth=1.4, label=name)
    axis.plot(angles, [*target, target[0]], **TARGET, label="target")
    axis.set_xticks(angles[:-1], list(targets))
    axis.set_ylim(0, 1)
    axis.set_yticks([0.25, 0.5, 0.75, 1.0], ["25 %", "50 %", "75 %", ""])
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.1, 0.5))
    return figure


def front(
    matrix: ScoreMatrix,
    solution: DualSolution,
    policies: Mapping[str, PolicyResult],
    kls: Sequence[float] | None = None,
    palettes: Sequence[Mapping[str, float]] | None = None,
    families: Mapping[str, str] | None = None,
) -> Figure:
    """Levels of every pair of values with a target: the policies, the palette, and the front (paper, theorem 3).

    The front holds the best pairs of levels within the palette's predicted KL, all other values free. kls: one front
    for each, in nats, instead. palettes: a cross for each, instead of shading where the palette of `solution` is met.
    families: by policy; policies of a family share a marker.
    """
    fronts = [kl for kl in (kls if kls is not None else [solution.kl]) if kl > 0]
    pairs = list(combinations(solution.targets, 2)) or [(next(iter(solution.targets)),) * 2]
    figure, axes = plt.subplots(
        1, len(pairs), figsize=(3.5 * len(pairs) + 1.2, 3.4), squeeze=False, layout="constrained"
    )
    family_of = families or {name: name for name in policies}
    styles = {
        family: (marker_of(number), color_of(number)) for number, family in enumerate(dict.fromkeys(family_of.values()))
    }
    for axis, (x, y) in zip(axes[0], pairs, strict=True):
        for name, result in policies.items():
            marker, color = styles[family_of[name]]
            _point(axis, result.levels[x], result.levels[y], marker, color)
        for number, kl in enumerate(fronts if x != y else ()):
            best = pareto_front(matrix, [x, y], 60, kl=kl, estimator=solution.estimator).levels_nV
            axis.plot(*best.T, color="0.3", linewidth=1, linestyle=LINES[number % len(LINES)], zorder=1)
        if palettes is None:
            _shade(axis, solution.targets[x], solution.targets[y])
        for palette in palettes or ():
            if x in palette and y in palette:
                axis.plot(palette[x], palette[y], "+", color="0.35", markersize=11)
        axis.set(xlabel=x, ylabel=y)
        remove_frame(axis)
    _front_legend(axes[0, -1], styles, fronts if len(solution.targets) > 1 else [], with_palettes=palettes is not None)
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
                color=color_of(number),
                linewidth=1.2,
                linestyle=LINES[number % len(LINES)],
                label=policy,
            )
        if name in solution.targets:
            axis.axvline(solution.targets[name], **TARGET)
        axis.set(xlabel=name, yticks=[])
        remove_frame(axis)
    axes[0, 0].set_ylabel("share of responses")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _quantiles(matrix: ScoreMatrix, levels: Mapping[str, Estimate]) -> list[float]:
    return [float((matrix.column(name) < level.mean).mean()) for name, level in levels.items()]


def _bars(names: list[str], rings: Mapping[str, list[float]], target: list[float]) -> Figure:
    figure, axis = plt.subplots(figsize=(1.5 + 1.6 * len(names), 3.2), layout="constrained")
    places, width = np.arange(len(names)), 0.8 / len(rings)
    for number, (policy, ring) in enumerate(rings.items()):
        axis.bar(places + width * (number + 0.5) - 0.4, ring, width, color=color_of(number), label=policy)
    for place, quantile in enumerate(target):
        axis.hlines(quantile, place - 0.45, place + 0.45, **TARGET)
    axis.set_xticks(places, names)
    axis.plot([], [], **TARGET, label="target")
    axis.set(ylim=(0, 1), ylabel="quantile of the base scores")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    remove_frame(axis)
    return figure


def _shade(axis: Any, x: float, y: float) -> None:
    """Shade the points where both targets are met, and make room for them."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    right, top = max(right, x + 0.1 * (right - left)), max(top, y + 0.1 * (top - bottom))
    left, bottom = min(left, x), min(bottom, y)
    axis.fill_between([x, right], y, top, color="0.92", zorder=0)
    axis.set(xlim=(left, right), ylim=(bottom, top))


def _point(axis: Any, x: Estimate, y: Estimate, marker: str, color: str) -> None:
    """Two levels with their intervals."""
    axis.errorbar(x.mean, y.mean, _interval(y), _interval(x), fmt=marker, color=color, markersize=5, elinewidth=0.7)


def _interval(level: Estimate) -> list[list[float]]:
    """Lower and upper half, as `errorbar` takes them."""
    return [[level.mean - level.low], [level.high - level.mean]]


def _front_legend(
    axis: Any, styles: Mapping[str, tuple[str, str]], fronts: Sequence[float], with_palettes: bool
) -> None:
    """Beside the last axes: marker and color of each family, and the KL of each front."""
    for family, (marker, color) in styles.items():
        axis.plot([], [], marker, color=color, label=family)
    for number, kl in enumerate(fronts):
        line = LINES[number % len(LINES)]
        axis.plot([], [], color="0.3", linewidth=1, linestyle=line, label=f"front at {kl:.2f} nats")
    if with_palettes:
        axis.plot([], [], "+", color="0.35", markersize=11, label="palette")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
