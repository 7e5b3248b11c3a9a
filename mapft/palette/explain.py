"""A solution in plain English, and as tables for the terminal.

Tables are plain data: headings, rows, title and caption, as `mapft.utils.terminal.print_table` takes them.
"""

from __future__ import annotations

import math
from typing import TypedDict

from mapft.palette.adjust import DEFAULT_FLOOR, Adjustment
from mapft.palette.analysis import Analysis, analyse
from mapft.palette.matrix import ScoreMatrix
from mapft.palette.solution import DualSolution, Status
from mapft.palette.uncertainty import Interval, Uncertainty

HALF_WIDTH = 0.05  # sd, of the interval for which `explain` names the number of prompts


class Table(TypedDict):
    """A table as plain data."""

    headings: list[str]
    rows: list[list[str]]
    title: str
    caption: str


def explain(matrix: ScoreMatrix, solution: DualSolution, uncertainty: Uncertainty | None = None) -> str:
    """What the solution means, what each value costs, how precise it is and what to do, one sentence per line."""
    lines = [solution.sentence]
    if solution.status is not Status.optimal:
        return "\n".join([*lines, infeasibility_sentence(matrix, solution)])
    analysis = analyse(matrix, solution)
    lines.append(_policy_sentence(matrix, solution, analysis))
    lines += [_value_sentence(matrix, solution, analysis, name, uncertainty) for name in solution.targets]
    lines += _trade_off_sentences(analysis)
    lines += _side_effect_sentences(matrix, solution)
    lines += _precision_sentences(matrix, solution, analysis)
    if uncertainty is not None and uncertainty.failed:
        lines.append(
            f"Caution: the palette is infeasible on {uncertainty.failed} of {uncertainty.replications} resamples of "
            "the prompts. They are left out, so the intervals are too narrow."
        )
    if solution.ess < DEFAULT_FLOOR:
        lines.append(
            f"Caution: lambda depends on only {solution.ess:.1f} effective samples; lower a target or "
            "generate more samples."
        )
    return "\n".join(lines)


def solution_table(matrix: ScoreMatrix, solution: DualSolution, uncertainty: Uncertainty | None = None) -> Table:
    """One row per value: base level, target, predicted level (with interval), lambda and its price in nats per sd."""
    interval = [] if uncertainty is None else [f"{uncertainty.level:.0%} interval"]
    rows = []
    for name in matrix.values:
        target, lam = solution.targets.get(name), solution.lam[name]
        sd, per_sd = display_units(matrix, name)
        rows.append(
            [
                name,
                format_number(matrix.base[name], sd),
                "free" if target is None else format_number(target, sd),
                format_number(solution.predicted[name], sd),
                *([] if uncertainty is None else [_format_interval(uncertainty.predicted[name], sd)]),
                format_number(lam, per_sd),
                *([] if uncertainty is None else [_format_interval(uncertainty.lam[name], per_sd)]),
                format_number(lam * matrix.sd[name]),
            ]
        )
    optimal = solution.status is Status.optimal
    return Table(
        headings=["value", "base", "target", "predicted", *interval, "lambda", *interval, "nats per sd"],
        rows=rows,
        title=f"{solution.status}: {solution.estimator}, margin {solution.margin:+.3f} sd",
        caption=f"KL {solution.kl:.3f} nats, {solution.ess:.0f} of {len(matrix)} samples effective" if optimal else "",
    )


def adjustment_table(matrix: ScoreMatrix, adjustment: Adjustment) -> Table:
    """One row per value: base level, requested and adjusted target, change in sd, whether the value is binding."""
    rows = []
    for name, old in adjustment.old.targets.items():
        new = adjustment.new.targets[name]
        change = (new - old) / matrix.sd[name] if matrix.sd[name] > 0 else math.nan
        numbers = [format_number(number, matrix.sd[name]) for number in (adjustment.base[name], old, new)]
        rows.append([name, *numbers, format_number(change), "yes" if name in adjustment.binding else ""])
    return Table(
        headings=["value", "base", "requested", "adjusted", "change (sd)", "binding"],
        rows=rows,
        title=f"adjusted palette: {adjustment.method}",
        caption="",
    )


def infeasibility_sentence(matrix: ScoreMatrix, solution: DualSolution) -> str:
    """The certificate of an infeasible palette as a sentence, or the margin of one on the boundary."""
    if solution.certificate is None:
        return f"All targets together can rise by at most {solution.margin:.1e} sd."
    weights = {name: weight for name, weight in solution.certificate.items() if weight > 0}
    mixture = " + ".join(f"{weight:.3g} {name}" for name, weight in weights.items())
    requested = sum(weight * solution.targets[name] for name, weight in weights.items())
    best = requested - solution.certificate.excess(matrix)
    asked = f"the palette asks for {mixture} = {requested:.4g}, but the samples allow {best:.4g} at most."
    return f"Proof, in the unit of each score: {asked}"


def _policy_sentence(matrix: ScoreMatrix, solution: DualSolution, analysis: Analysis) -> str:
    return (
        f"The policy is {solution.kl:.3f} nats (KL) from the base policy. Its predicted levels rest on "
        f"{solution.ess:.0f} effective samples of {len(matrix)} ({solution.estimator} estimator), "
        f"{analysis.ess_per_prompt:.1f} per prompt in the median of {len(matrix.groups.sizes)} prompts. All targets "
        f"together can rise by {solution.margin:.3f} sd before the palette is infeasible."
    )


def _value_sentence(
    matrix: ScoreMatrix, solution: DualSolution, analysis: Analysis, name: str, uncertainty: Uncertainty | None
) -> str:
    sd, per_sd = display_units(matrix, name)
    interval = "" if uncertainty is None else f" {_format_interval(uncertainty.predicted[name], sd)}"
    levels = (matrix.base[name], solution.targets[name], solution.predicted[name])
    base, target, predicted = (format_number(level, sd) for level in levels)
    line = f"{name}: base {base}, target {target}, predicted {predicted}{interval}"
    if solution.lam[name] == 0:
        return f"{line}; slack, so it costs nothing (lambda is 0)."
    price = analysis.price_per_sd[name]
    lam = format_number(solution.lam[name], per_sd)
    return f"{line}; lambda {lam}: 0.1 sd more costs at least {price / 10:.3f} nats of KL."


def _trade_off_sentences(analysis: Analysis) -> list[str]:
    """One sentence per pair of active values."""
    names = list(analysis.trade_offs)
    return [
        f"At the same KL, one unit more of {one} costs {-analysis.trade_offs[one][other]:.3g} units of {other}."
        for position, one in enumerate(names)
        for other in names[position + 1 :]
    ]


def _side_effect_sentences(matrix: ScoreMatrix, solution: DualSolution) -> list[str]:
    """Predicted changes of free and slack values, in sd from their base level."""
    changes = {
        name: (solution.predicted[name] - matrix.base[name]) / matrix.sd[name]
        for name in matrix.values
        if solution.lam[name] == 0 and matrix.sd[name] > 0
    }
    listed = ", ".join(f"{name} {change:+.2f} sd" for name, change in changes.items())
    return [f"Predicted changes of the values with lambda 0: {listed}."] if listed else []


def _precision_sentences(matrix: ScoreMatrix, solution: DualSolution, analysis: Analysis) -> list[str]:
    """How many prompts a 95 % interval of +- HALF_WIDTH sd needs, where the pilot has fewer."""
    if not any(matrix.sd[name] > 0 for name in solution.targets):
        return []
    prompts = analysis.standard_errors.required_prompts(matrix, solution, HALF_WIDTH)
    if prompts <= len(matrix.groups.sizes):
        return []
    return [
        f"For 95 % intervals of +-{HALF_WIDTH:g} sd on the predicted levels, use about {prompts} prompts with as many "
        "samples each."
    ]


def display_units(matrix: ScoreMatrix, name: str) -> tuple[float, float]:
    """The unit of a value's levels, its sd, and of its lambda, 1 / sd."""
    sd = matrix.sd[name]
    return sd, 1 / sd if sd > 0 else 1.0


def format_number(number: float, unit: float = 1.0) -> str:
    """A number to a thousandth of its unit; "-" for nan."""
    if math.isnan(number):
        return "-"
    decimals = 3 - round(math.log10(unit)) if 0 < unit < math.inf else 3
    return f"{number:.{decimals}f}" if 0 <= decimals <= 6 else f"{number:.4g}"


def _format_interval(interval: Interval, unit: float) -> str:
    return f"[{format_number(interval.low, unit)}, {format_number(interval.high, unit)}]"
