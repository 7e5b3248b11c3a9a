"""Figures of an evaluation: what was reached and at what price, levels in pairs with the front, and scores.

Every figure is written for two columns of a paper and, with the suffix NARROW_SUFFIX, for one.

Legend: N samples.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mapft.config.run_folder import RunFolder
from mapft.evaluation.result import Estimate, Evaluation, PolicyResult
from mapft.evaluation.row_figures import levels, prices
from mapft.evaluation.style import (
    LINES,
    NARROW_SUFFIX,
    QUIET,
    SHADE,
    TARGET,
    color_of,
    legend_below,
    marker_of,
    panels,
    save,
)
from mapft.evaluation.training_figures import trajectories, visits
from mapft.palette import DualSolution, ScoreMatrix, pareto_front
from mapft.utils.files import read_json

MOST_VALUES = 6  # whose pairs are shown; 64 values have 2016 pairs


def run_figures(
    folder: RunFolder, matrix: ScoreMatrix, evaluation: Evaluation, tables: Mapping[str, pd.DataFrame]
) -> dict[str, str]:
    """Write all figures of a run to folder.figures; returns {file name without suffix: caption}."""
    solution, policies = evaluation.solution, evaluation.policies
    fronts = front_levels(matrix, solution, [solution.kl])
    first_values = f" of the first {MOST_VALUES} values" if len(solution.targets) > MOST_VALUES else ""
    figures: dict[str, tuple[Callable[[bool], Figure | None], str]] = {
        "levels": (
            lambda wide: levels(evaluation, wide),
            f"Levels on {evaluation.prompts} held-out prompts with {100 * evaluation.confidence:g} % intervals, and "
            "the KL that they cost.",
        ),
        "prices": (lambda wide: prices(evaluation, wide), "What one more sd of each level costs at the margin."),
        "front": (
            lambda wide: front(solution, policies, fronts, wide=wide),
            f"Levels in pairs{first_values}. Curve: the best pairs of levels at {solution.kl:.2f} nats, the KL "
            "predicted for the palette, all other values free. Shaded: both targets are met.",
        ),
        "distributions": (
            lambda wide: distributions(tables, solution, wide),
            "Scores of the responses to the held-out prompts.",
        ),
    }
    folders = [folder]
    if folder.sequential.exists():
        record = read_json(folder.sequential)
        folders = [RunFolder(folder.path / visit["folder"]) for visit in record["visits"]]
        figures["visits"] = (
            lambda wide: visits(record, solution.lam, wide),
            "Multipliers and violations at every visit. A hollow mark is a visit that was skipped.",
        )
    logs = [trained.logs for trained in folders if trained.logs.exists()]  # none where p0 meets the palette
    figures["trajectories"] = (
        lambda wide: trajectories(logs, solution.targets, wide),
        "Mean scores of the rollouts and multipliers during training.",
    )
    return {name: caption for name, (plot, caption) in figures.items() if save_both(plot, folder.figures, name)}


def save_both(plot: Callable[[bool], Figure | None], folder: Any, name: str) -> bool:
    """Write plot(True) as name.svg and .png, and plot(False) as name{NARROW_SUFFIX}.svg; False without a figure."""
    wide, narrow = plot(True), plot(False)
    if wide is None or narrow is None:
        return False
    save(wide, folder, name)
    save(narrow, folder, f"{name}{NARROW_SUFFIX}", ("svg",))
    return True


Front = tuple[float, dict[tuple[str, str], np.ndarray]]  # KL in nats, and the curve of each pair of values


def front_levels(matrix: ScoreMatrix, solution: DualSolution, kls: Sequence[float]) -> list[Front]:
    """The best pairs of levels within each KL, all other values free (paper, theorem 3)."""
    pairs = value_pairs(solution)
    return [
        (kl, {pair: pareto_front(matrix, pair, 60, kl=kl, estimator=solution.estimator).levels_nV for pair in pairs})
        for kl in kls
        if kl > 0 and pairs
    ]


def value_pairs(solution: DualSolution) -> list[tuple[str, str]]:
    """All pairs of the first MOST_VALUES values with a target."""
    return list(combinations(list(solution.targets)[:MOST_VALUES], 2))


def front(
    solution: DualSolution,
    policies: Mapping[str, PolicyResult],
    fronts: Sequence[Front],
    palettes: Sequence[Mapping[str, float]] | None = None,
    families: Mapping[str, str] | None = None,
    wide: bool = True,
) -> Figure:
    """Levels of the `value_pairs`: the policies, the palette, and the fronts of `front_levels`.

    palettes: a cross for each, instead of shading where the palette of `solution` is met. families: by policy;
    policies of a family share a marker.
    """
    pairs = value_pairs(solution) or [(next(iter(solution.targets)),) * 2]
    columns = min(len(pairs), 3 if wide else 1)
    figure, axes = panels(ceil(len(pairs) / columns), columns, wide, 2.6 if columns > 1 else 3.2)
    family_of = families or {name: name for name in policies}
    styles = {
        family: (marker_of(number), color_of(number)) for number, family in enumerate(dict.fromkeys(family_of.values()))
    }
    for axis, (x, y) in zip(axes.flat, pairs, strict=False):
        for name, result in policies.items():
            marker, color = styles[family_of[name]]
            _point(axis, result.levels[x], result.levels[y], marker, color)
        for number, (_, curves) in enumerate(fronts if x != y else ()):
            axis.plot(*curves[x, y].T, color=QUIET, linewidth=1, linestyle=LINES[number % len(LINES)], zorder=1)
        if palettes is None:
            _shade(axis, solution.targets[x], solution.targets[y])
        for palette in palettes or ():
            if x in palette and y in palette:
                axis.plot(palette[x], palette[y], "+", color=QUIET, markersize=11)
        axis.set(xlabel=f"{x} (mean score)", ylabel=f"{y} (mean score)")
    for axis in axes.flat[len(pairs) :]:
        axis.remove()
    marks = [Line2D([], [], linestyle="", marker=m, color=c, label=family) for family, (m, c) in styles.items()]
    curves_of = [
        Line2D([], [], color=QUIET, linewidth=1, linestyle=LINES[number % len(LINES)], label=f"front at {kl:.2f} nats")
        for number, (kl, _) in enumerate(fronts)
    ]
    palette_mark = Line2D([], [], linestyle="", marker="+", color=QUIET, markersize=11, label="palette")
    last: list[Any] = [Patch(color=SHADE, label="both targets met")] if palettes is None else [palette_mark]
    legend_below(figure, [*marks, *curves_of, *last], columns=5 if wide else 2)
    return figure


def distributions(tables: Mapping[str, pd.DataFrame], solution: DualSolution, wide: bool = True) -> Figure:
    """Histogram of every value's scores on held-out prompts, one outline for each policy, with the target."""
    names = list(solution.lam)
    columns = min(len(names), 3 if wide else 1)
    figure, axes = panels(ceil(len(names) / columns), columns, wide, 2.3 if wide else 1.9)
    for axis, name in zip(axes.flat, names, strict=False):
        bins = np.histogram_bin_edges(np.concatenate([table[name].to_numpy(float) for table in tables.values()]), 30)
        for number, table in enumerate(tables.values()):
            scores_N = table[name].to_numpy(float)
            axis.hist(
                scores_N,
                bins.tolist(),
                weights=np.full(len(scores_N), 100 / len(scores_N)),
                histtype="step",
                color=color_of(number),
                linewidth=1.3,
                linestyle=LINES[number % len(LINES)],
            )
        if name in solution.targets:
            axis.axvline(solution.targets[name], **TARGET)
        axis.set(xlabel=f"{name} (score)")
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for axis in axes[:, 0]:
        axis.set_ylabel("responses (%)")
    outlines = [
        Line2D([], [], color=color_of(number), linestyle=LINES[number % len(LINES)], label=policy)
        for number, policy in enumerate(tables)
    ]
    legend_below(figure, [*outlines, Line2D([], [], **TARGET, label="target of the mean")], columns=4 if wide else 2)
    return figure


def _shade(axis: Any, x: float, y: float) -> None:
    """Shade the points where both targets are met, and make room for them."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    right, top = max(right, x + 0.1 * (right - left)), max(top, y + 0.1 * (top - bottom))
    left, bottom = min(left, x), min(bottom, y)
    axis.fill_between([x, right], y, top, color=SHADE, zorder=0, linewidth=0)
    axis.set(xlim=(left, right), ylim=(bottom, top))


def _point(axis: Any, x: Estimate, y: Estimate, marker: str, color: str) -> None:
    """Two levels with their intervals."""
    axis.errorbar(x.mean, y.mean, _interval(y), _interval(x), fmt=marker, color=color, markersize=5, elinewidth=0.7)


def _interval(level: Estimate) -> list[list[float]]:
    """Lower and upper half, as `errorbar` takes them."""
    return [[level.mean - level.low], [level.high - level.mean]]
