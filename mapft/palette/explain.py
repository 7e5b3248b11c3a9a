"""A solution in plain English, and as a table for the terminal (method section 4).

The text and the table say the same thing and are built from the same `Analysis`. rich is imported by the table only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mapft.palette.adjust import DEFAULT_FLOOR, Adjustment
from mapft.palette.analysis import Analysis, analyse
from mapft.palette.matrix import RewardMatrix
from mapft.palette.solution import DualSolution, Status
from mapft.palette.uncertainty import Interval, Uncertainty

if TYPE_CHECKING:
    from rich.table import Table


def explain(matrix: RewardMatrix, solution: DualSolution, uncertainty: Uncertainty | None = None) -> str:
    """What the solution says, what each value costs, what limits it and what to do, one sentence per line."""
    lines = [solution.status.sentence]
    if solution.status is not Status.optimal:
        return "\n".join([*lines, *obstacle(matrix, solution)])
    analysis = analyse(matrix, solution)
    lines.append(_distance(matrix, solution, analysis))
    lines += [_value(matrix, solution, analysis, name, uncertainty) for name in solution.targets]
    lines += _exchanges(analysis)
    lines += _side_effects(matrix, solution, analysis)
    if uncertainty is not None and uncertainty.failed:
        lines.append(
            f"Caution: on {uncertainty.failed} of {uncertainty.replications} resamples of the prompts the palette is "
            "out of reach; they are left out, so the intervals are too narrow."
        )
    if solution.ess < DEFAULT_FLOOR:
        lines.append(
            f"Caution: lambda rests on {solution.ess:.1f} effective samples; lower a target with adjust() or draw more."
        )
    return "\n".join(lines)


def table(matrix: RewardMatrix, solution: DualSolution, uncertainty: Uncertainty | None = None) -> Table:
    """One row per value: base level, target, realized level (with interval), lambda and its price in nats per sd."""
    from rich.table import Table

    grid = Table(title=f"{solution.status}: {solution.estimator}, margin {solution.margin:+.3f} sd")
    interval = [] if uncertainty is None else [f"{uncertainty.level:.0%} interval"]
    for heading in ("value", "base", "target", "realized", *interval, "lambda", *interval, "nats per sd"):
        grid.add_column(heading, justify="left" if heading == "value" else "right", overflow="fold")
    for name in matrix.values:
        target, lam = solution.targets.get(name), solution.lam[name]
        sd, per_sd = units(matrix, name)
        grid.add_row(
            name,
            shown(matrix.base[name], sd),
            "free" if target is None else shown(target, sd),
            shown(solution.realized[name], sd),
            *([] if uncertainty is None else [_range(uncertainty.realized[name], sd)]),
            shown(lam, per_sd),
            *([] if uncertainty is None else [_range(uncertainty.lam[name], per_sd)]),
            shown(lam * matrix.sd[name]),
        )
    if solution.status is Status.optimal:
        grid.caption = f"KL {solution.kl:.3f} nats, {solution.ess:.0f} of {len(matrix)} samples effective"
    return grid


def adjustment_text(matrix: RewardMatrix, adjustment: Adjustment) -> str:
    """The old and the new palette side by side, and which values stood in each other's way."""
    if not adjustment.changed:
        return "The palette is attainable as it stands; nothing was adjusted."
    lines = [f"Adjusted ({adjustment.how}); in each other's way: {', '.join(adjustment.binding)}."]
    for name, old in adjustment.old.targets.items():
        new = adjustment.new.targets[name]
        change = "as asked" if new == old else "a constant value"
        if new != old and matrix.sd[name] > 0:
            change = f"{(new - old) / matrix.sd[name]:+.2f} sd"
        base, was, now = (shown(number, matrix.sd[name]) for number in (adjustment.base[name], old, new))
        lines.append(f"  {name}: base {base}, asked {was}, now {now} ({change})")
    return "\n".join(lines)


def adjustment_table(matrix: RewardMatrix, adjustment: Adjustment) -> Table:
    """One row per value: base level, old target, new target, change in sd, whether the value is binding."""
    from rich.table import Table

    grid = Table(title=f"adjusted palette: {adjustment.how}")
    for heading in ("value", "base", "asked", "adjusted", "change (sd)", "binding"):
        grid.add_column(heading, justify="left" if heading == "value" else "right")
    for name, old in adjustment.old.targets.items():
        new = adjustment.new.targets[name]
        change = (new - old) / matrix.sd[name] if matrix.sd[name] > 0 else math.nan
        numbers = [shown(number, matrix.sd[name]) for number in (adjustment.base[name], old, new)]
        grid.add_row(name, *numbers, shown(change), "yes" if name in adjustment.binding else "")
    return grid


def obstacle(matrix: RewardMatrix, solution: DualSolution) -> list[str]:
    """Why there is no policy: the certificate in words."""
    if solution.certificate is None:
        return [f"The targets could rise by {solution.margin:.1e} sd at most before they are out of reach."]
    weights = {name: weight for name, weight in solution.certificate.items() if weight > 0}
    mixture = " + ".join(f"{weight:.3g} {name}" for name, weight in weights.items())
    wanted = sum(weight * solution.targets[name] for name, weight in weights.items())
    best = wanted - solution.certificate.excess(matrix)
    return [
        f"Proof: the palette asks {wanted:.4g} of the mixture {mixture}, and the best the samples give is {best:.4g}."
    ]


def _distance(matrix: RewardMatrix, solution: DualSolution, analysis: Analysis) -> str:
    prompts = len(matrix.groups.sizes)
    return (
        f"The policy lies {solution.kl:.3f} nats (KL) from the base policy; its levels rest on {solution.ess:.0f} "
        f"effective of {len(matrix)} samples of {prompts} prompts ({solution.estimator} estimator), "
        f"{analysis.ess_per_prompt:.1f} per prompt in the median; every target could rise by {solution.margin:.3f} sd "
        "before the palette is out of reach."
    )


def _value(
    matrix: RewardMatrix, solution: DualSolution, analysis: Analysis, name: str, uncertainty: Uncertainty | None
) -> str:
    sd, per_sd = units(matrix, name)
    interval = "" if uncertainty is None else f" {_range(uncertainty.realized[name], sd)}"
    levels = (matrix.base[name], solution.targets[name], solution.realized[name])
    base, target, realized = (shown(level, sd) for level in levels)
    line = f"{name}: base {base}, target {target}, realized {realized}{interval}"
    if solution.lam[name] == 0:
        return f"{line}; slack, so it costs nothing (lambda is 0)."
    price = analysis.price_per_sd[name]
    lam = shown(solution.lam[name], per_sd)
    return f"{line}; lambda {lam}: 0.1 sd more would cost at least {price / 10:.3f} nats of KL."


def _exchanges(analysis: Analysis) -> list[str]:
    """One sentence per pair of active values."""
    names = list(analysis.trade_offs)
    return [
        f"At the same KL, one unit more of {one} takes {-analysis.trade_offs[one][other]:.3g} units of {other}."
        for place, one in enumerate(names)
        for other in names[place + 1 :]
    ]


def _side_effects(matrix: RewardMatrix, solution: DualSolution, analysis: Analysis) -> list[str]:
    """What free and slack values do meanwhile, in sd from their base level."""
    drift = {
        name: (solution.realized[name] - matrix.base[name]) / matrix.sd[name]
        for name in matrix.values
        if solution.lam[name] == 0 and matrix.sd[name] > 0
    }
    moved = ", ".join(f"{name} {change:+.2f} sd" for name, change in drift.items())
    return [f"Values without pressure move along: {moved}."] if moved else []


def units(matrix: RewardMatrix, name: str) -> tuple[float, float]:
    """The units of a value's levels and of its lambda."""
    sd = matrix.sd[name]
    return sd, 1 / sd if sd > 0 else 1.0


def shown(number: float, unit: float = 1.0) -> str:
    """To a thousandth of its unit: a level's is the sd of its value, lambda's one over it."""
    if math.isnan(number):
        return "-"
    decimals = 3 - round(math.log10(unit)) if 0 < unit < math.inf else 3
    return f"{number:.{decimals}f}" if 0 <= decimals <= 6 else f"{number:.4g}"


def _range(interval: Interval, unit: float) -> str:
    return f"[{shown(interval.low, unit)}, {shown(interval.high, unit)}]"
