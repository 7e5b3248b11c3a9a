"""Figures with one row per value or policy: what the targets asked for, what was reached, and its price."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.stats import norm

from mapft.config import BASE, TUNED
from mapft.evaluation.result import Estimate, Evaluation, ValueResult
from mapft.evaluation.style import (
    INK,
    LIGHT,
    LINE,
    QUIET,
    SHADE,
    TUNED_COLOR,
    color_of,
    legend_below,
    marker_of,
    plt,
    width,
    wrapped,
)

SLACK_SD = 0.02  # a predicted level this close to its target needs no mark of its own
LARGE_KL = 8.0  # nats, above which the axis of KL is logarithmic beyond 1


@dataclass(frozen=True)
class Row:
    """A policy of a comparison. gaps: level minus target in sd, by value. bound: `kl` is an upper bound."""

    name: str
    gaps: dict[str, Estimate]
    kl: Estimate
    met: bool
    bound: bool = False

    @property
    def smallest(self) -> Estimate | None:
        """The gap that decides whether all targets are met."""
        return min(self.gaps.values(), key=lambda gap: gap.mean, default=None)


def levels(evaluation: Evaluation, wide: bool = True) -> Figure:
    """Level of every value in sd above the base level, by policy, with its target; and the KL against the least."""
    values, policies = evaluation.values, evaluation.policies
    row = 0.3 + 0.17 * len(policies)
    price = _price_bars(evaluation)
    heights = [0.9 + row * len(values), 0.75 + 0.3 * len(price)]
    if wide:
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(width(wide), max(heights)), width_ratios=[1.75, 1], layout="constrained"
        )
    else:
        figure, (left, right) = plt.subplots(
            2, 1, figsize=(width(wide), sum(heights) + 0.3), height_ratios=heights, layout="constrained"
        )
    step = 0.7 / len(policies)
    for place, (name, value) in enumerate(values.items()):
        sd, base = value.sd or 1.0, evaluation.base.levels[name].mean
        _target(left, place, value, base, sd, evaluation.tolerance_sd)
        left.plot([0, (value.realized.mean - base) / sd], [place - 0.35 + 1.5 * step] * 2, color=LINE, zorder=0)
        for number, (policy, result) in enumerate(policies.items()):
            level, line = result.levels[name], place - 0.35 + (number + 0.5) * step
            _point(left, _scaled(level, base, sd), line, number, policy)
        left.text(1.0, place, _outcome(value), transform=left.get_yaxis_transform(), va="center", color=INK)
        if place:
            left.axhline(place - 0.5, color=SHADE, linewidth=0.8, zorder=0)
    left.set_yticks(range(len(values)), [wrapped(name) for name in values], color=INK)
    left.set_ylim(len(values) - 0.5, -0.5)
    left.margins(x=0.06)
    left.tick_params(axis="y", length=0)
    left.set_xlabel("level above the base policy (sd)")
    left.set_title("Levels")
    _draw_price(right, price, evaluation)
    handles: list[Any] = [_mark(number, name) for number, name in enumerate(policies)]
    handles += [Line2D([], [], linestyle="", marker="|", markersize=11, markeredgewidth=2, color=INK, label="target")]
    handles.append(Patch(color=SHADE, label=f"met, down to {evaluation.tolerance_sd:g} sd below"))
    if _predicted_differs(evaluation):
        handles.append(_diamond("predicted"))
    legend_below(figure, handles, columns=6 if wide else 2)
    return figure


def prices(evaluation: Evaluation, wide: bool = True) -> Figure:
    """lam * sd of every value, in nats per sd: what one sd more costs, on the pilot and at the end of training."""
    values = evaluation.values
    figure, axis = plt.subplots(figsize=(width(wide), 0.95 + 0.4 * len(values)), layout="constrained")
    z = norm.ppf((1 + evaluation.confidence) / 2)
    for place, (name, value) in enumerate(values.items()):
        pilot = value.lam * value.sd
        final = evaluation.lam[name] * value.sd if evaluation.lam else pilot
        error = z * evaluation.lam_error.get(name, 0.0) * value.sd
        axis.plot([0, max(pilot, final)], [place, place], color=SHADE, linewidth=6, solid_capstyle="butt", zorder=0)
        axis.plot(pilot, place, "D", markerfacecolor="none", markeredgecolor=QUIET, markersize=6)
        if evaluation.lam:
            axis.errorbar(final, place, xerr=[[min(error, final)], [error]], fmt="o", color=TUNED_COLOR, capsize=2.5)
    axis.set_yticks(range(len(values)), [wrapped(name) for name in values], color=INK)
    axis.set_ylim(len(values) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("λ · sd: nats of KL for one more sd of the level")
    interval = f"end of training, {100 * evaluation.confidence:g} % interval" if evaluation.lam_error else "training"
    handles = [_diamond("pilot")]
    handles += [_mark(1, interval, marker="o")] if evaluation.lam else []
    legend_below(figure, handles)
    return figure


def contenders(rows: Sequence[Row], tolerance_sd: float, what: str, wide: bool = True) -> Figure:
    """The smallest gap of every policy to a target, with those of its other values, and its KL.

    what: `policy` or `run`.
    """
    names = [wrapped(row.name, 28) for row in rows]
    height = 1.1 + 0.17 * sum(1 + max(1, name.count("\n") + 0.6) for name in names) * 0.82
    if wide:
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(width(wide), height), sharey=True, width_ratios=[1.5, 1], layout="constrained"
        )
    else:
        figure, (left, right) = plt.subplots(
            2, 1, figsize=(width(wide), 2 * height - 0.3), sharex=False, layout="constrained"
        )
    for place, row in enumerate(rows):
        color = TUNED_COLOR if row.met else LIGHT["vermillion"]
        marker = "o" if row.met else "X"
        for gap in row.gaps.values():
            left.plot(gap.mean, place, "|", color=LIGHT["grey"], markersize=7)
        if row.smallest:
            _bar(left, row.smallest, place, color, marker)
        _bar(right, row.kl, place, color, "<" if row.bound else marker)
    left.axvline(0, color=INK, linewidth=0.8, zorder=0)
    low, high = left.get_xlim()
    left.axvspan(-tolerance_sd, max(high, 0.05), color=SHADE, zorder=-1, linewidth=0)
    left.set_xlim(min(low, -2 * tolerance_sd), max(high, 0.05))
    for axis in (left, right):
        if axis is left or not wide:
            axis.set_yticks(range(len(rows)), names, color=INK)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y")
    right.set_xlim(left=min(0, *(row.kl.low for row in rows)))
    if max(row.kl.mean for row in rows) > LARGE_KL:
        right.set_xscale("symlog", linthresh=1)
        right.set_xlim(right=1.4 * max(row.kl.high for row in rows))
        right.set_xticks([0, 1, 3, 10, 30], ["0", "1", "3", "10", "30"])
    left.set(xlabel="level minus target (sd)", title="Smallest gap to a target")
    right.set(xlabel="KL to the base policy (nats)", title="Price")
    handles: list[Any] = [
        Line2D([], [], linestyle="", marker="o", color=TUNED_COLOR, label=f"{what} that meets every target"),
        Line2D([], [], linestyle="", marker="X", color=LIGHT["vermillion"], label=f"{what} that misses one"),
        Line2D([], [], linestyle="", marker="|", color=LIGHT["grey"], label="each value"),
        Patch(color=SHADE, label=f"met, down to {tolerance_sd:g} sd below"),
    ]
    if any(row.bound for row in rows):
        handles.append(Line2D([], [], linestyle="", marker="<", color=QUIET, label="at most this KL"))
    legend_below(figure, handles, columns=3 if wide else 1)
    return figure


def gaps_sd(
    levels: Mapping[str, Estimate], targets: Mapping[str, float], sd: Mapping[str, float]
) -> dict[str, Estimate]:
    """(level - target) / sd of every value whose scores are not constant."""
    return {name: _scaled(levels[name], c, sd[name]) for name, c in targets.items() if sd[name] > 0}


def _scaled(level: Estimate, zero: float, unit: float) -> Estimate:
    return Estimate(*((end - zero) / unit for end in (level.mean, level.low, level.high)))


def _target(axis: Any, place: int, value: ValueResult, base: float, sd: float, tolerance: float) -> None:
    """The target as a line, behind it the levels below it that count as met; the predicted level if it differs."""
    if value.target is not None:
        goal = (value.target - base) / sd
        axis.fill_betweenx([place - 0.38, place + 0.38], goal - tolerance, goal, color=SHADE, zorder=-1, linewidth=0)
        axis.plot([goal, goal], [place - 0.38, place + 0.38], color=INK, linewidth=2, zorder=1)
    if _differs(value):
        axis.plot(
            (value.predicted - base) / sd, place, "D", markerfacecolor="none", markeredgecolor=QUIET, markersize=6
        )


def _differs(value: ValueResult) -> bool:
    return value.target is None or abs(value.predicted - value.target) > SLACK_SD * value.sd


def _predicted_differs(evaluation: Evaluation) -> bool:
    return any(map(_differs, evaluation.values.values()))


def _outcome(value: ValueResult) -> str:
    if value.target is None:
        return "  free"
    if value.gap_sd is None:
        return "  constant"
    return f"  ✓ {value.gap_sd:+.2f} sd" if value.met else f"  ✗ {value.gap_sd:+.2f} sd"


def _price_bars(evaluation: Evaluation) -> list[tuple[str, Estimate, str]]:
    """(label, KL in nats, color) from top to bottom."""
    kl, ratio = evaluation.tuned.kl, evaluation.price_ratio
    bars = [(TUNED, kl, TUNED_COLOR)]
    if ratio and ratio.mean > 0:  # 0 where the measured KL is below 0, by noise
        least = kl.mean / ratio.mean
        bars.append(("least for\nits levels", Estimate(least, least, least), LIGHT["grey"]))
    if evaluation.aims_at_palette:
        predicted = evaluation.kl_predicted
        bars.append(("predicted\nfor the targets", Estimate(predicted, predicted, predicted), LIGHT["grey"]))
    return bars


def _draw_price(axis: Any, bars: list[tuple[str, Estimate, str]], evaluation: Evaluation) -> None:
    for place, (_, kl, color) in enumerate(bars):
        axis.barh(place, kl.mean, height=0.4, color=color, zorder=1)
        if kl.high > kl.low:
            axis.errorbar(kl.mean, place, xerr=_halves(kl), fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
        end = (max(kl.high, kl.mean), place)
        axis.annotate(f"{kl.mean:.2f}", end, (5, 0), textcoords="offset points", va="center", color=INK)
    axis.set_yticks(range(len(bars)), [label for label, *_ in bars], color=INK)
    axis.set_ylim(len(bars) - 0.5, -0.5)
    axis.margins(x=0.2)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("KL to the base policy (nats)")
    ratio = evaluation.price_ratio
    axis.set_title(f"Price: {ratio.mean:.2f} × the least" if ratio else "Price")


def _point(axis: Any, level: Estimate, line: float, number: int, policy: str) -> None:
    own = {BASE: 4.5, TUNED: 7.0}.get(policy, 5.0)
    axis.errorbar(
        level.mean,
        line,
        xerr=_halves(level),
        fmt=marker_of(number),
        color=color_of(number),
        markersize=own,
        elinewidth=1.6 if policy == TUNED else 1,
        capsize=2,
        zorder=3,
    )


def _bar(axis: Any, number: Estimate, place: int, color: str, marker: str) -> None:
    axis.errorbar(
        number.mean, place, xerr=_halves(number), fmt=marker, color=color, markersize=6, elinewidth=1, zorder=3
    )


def _halves(number: Estimate) -> list[list[float]]:
    """Lower and upper half of the interval, as `errorbar` takes them."""
    return [[max(0.0, number.mean - number.low)], [max(0.0, number.high - number.mean)]]


def _mark(number: int, label: str, marker: str = "") -> Line2D:
    return Line2D([], [], linestyle="", marker=marker or marker_of(number), color=color_of(number), label=label)


def _diamond(label: str) -> Line2D:
    return Line2D([], [], linestyle="", marker="D", markerfacecolor="none", markeredgecolor=QUIET, label=label)
