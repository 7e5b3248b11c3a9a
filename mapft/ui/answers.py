"""What the page is told about a solution: plain data for JSON, nan as None, one entry per value in their order."""

import math
from collections.abc import Iterable
from typing import Any

from mapft.palette import ScoreMatrix, Status, Uncertainty
from mapft.palette.adjust import DEFAULT_FLOOR
from mapft.palette.explain import display_units, format_number, infeasibility_sentence
from mapft.palette.precision import Z95
from mapft.ui.board import Board, View

STATE = {Status.optimal: "feasible", Status.boundary: "boundary", Status.infeasible: "infeasible"}
MIN_EFFECT = 0.05  # sd per sd; smaller effects on other values are not listed


def solution(view: View, board: Board) -> dict[str, Any]:
    """Verdict, figures and one row per value."""
    result, analysis, rows = view.solution, view.analysis, len(board.matrix)
    return {
        "state": STATE[result.status],
        "verdict": verdict(view, board.matrix),
        "proof": "" if view.feasible else infeasibility_sentence(board.matrix, result),
        "warnings": warnings(view, board.matrix),
        "few": few(view, board.matrix),
        "margin": finite(result.margin),
        "kl": finite(result.kl),
        "ess": finite(result.ess),
        "rows": rows,
        "ess_per_prompt": analysis.ess_per_prompt if analysis else None,
        "values": [_value(view, board, name) for name in board.matrix.values],
    }


def few(view: View, matrix: ScoreMatrix) -> bool:
    """Whether a feasible palette's lambda depends on a handful of samples: fewer than those that `adjust` leaves."""
    return view.feasible and round(view.solution.ess) < min(DEFAULT_FLOOR, len(matrix) / 2)


def verdict(view: View, matrix: ScoreMatrix) -> str:
    """The status in one sentence."""
    result = view.solution
    if view.feasible:
        start = f"Feasible: a policy {format_number(result.kl)} nats from the base model meets every target"
        if few(view, matrix):
            return f"{start}, but this rests on {result.ess:.0f} effective samples only."
        return f"{start}."
    if result.status is Status.boundary:
        return "On the boundary: these targets can only just be met; lower one a little."
    names = [name for name, weight in (result.certificate or {}).items() if weight > 0]
    if len(names) == 1:
        return f"Infeasible: {names[0]} alone cannot be this high; lower it."
    listed = " and ".join(([", ".join(names[:-1])] if names[:-1] else []) + names[-1:])
    return f"Infeasible: {listed} cannot all be this high together; lower one of them."


def warnings(view: View, matrix: ScoreMatrix) -> list[str]:
    """What a reader must know about a feasible palette's numbers before relying on them."""
    result, sentences = view.solution, []
    if not view.feasible or view.analysis is None:
        return []
    if few(view, matrix):
        sentences.append(
            f"Few samples: predicted levels and KL rest on {result.ess:.0f} of {len(matrix)} samples. Lower a target, "
            "or generate more samples."
        )
    if result.caution:
        sentences.append(result.caution)
    above = [name for name, target in result.targets.items() if target > matrix.column(name).max()]
    if above:
        names = ", ".join(above)
        sentences.append(f"Above the best sample of {names}: the {result.estimator} estimator extrapolates there.")
    if view.analysis.ess_worst_prompt < 1.5 and result.estimator != "pooled":
        sentences.append("For the worst prompt a single sample is effective: generate more samples per prompt.")
    return sentences


def _value(view: View, board: Board, name: str) -> dict[str, Any]:
    result, analysis, (sd, per_sd) = view.solution, view.analysis, display_units(board.matrix, name)
    target, predicted = result.targets.get(name), result.predicted[name]
    priced = view.feasible and target is not None and sd > 0
    price = analysis.price_per_sd[name] / 10 if analysis else math.nan
    error = analysis.standard_errors.predicted[name] if analysis else math.nan
    return {
        "target": target,
        "predicted": finite(predicted),
        "interval": around(predicted, Z95 * error),
        "price": price if priced else None,
        "text": {
            "base": format_number(board.matrix.base[name], sd),
            "target": "free" if target is None else format_number(target, sd),
            "predicted": format_number(predicted, sd),
            "quantile": percent(board.position("quantile", name, predicted)) if math.isfinite(predicted) else "-",
            "lam": format_number(result.lam[name], per_sd),
            "price": f"{price:.3f} nats" if priced else "",
            "effects": _side_effects(view, board, name),
        },
    }


def _side_effects(view: View, board: Board, raised: str) -> str:
    """Change of the other values' levels, in their sd, per sd of this value's target."""
    if view.analysis is None:
        return ""
    sd, changes = board.matrix.sd, []
    for other, effects in view.analysis.side_effects.items():
        if other != raised and raised in effects and sd[other] > 0:
            effect = effects[raised] * sd[raised] / sd[other]
            if abs(effect) >= MIN_EFFECT:
                changes.append(f"{other} {effect:+.2f}")
    return ", ".join(changes) or "none"


def bands(uncertainty: Uncertainty) -> dict[str, Any]:
    """Bootstrap intervals of the predicted levels and of the KL."""
    failed = uncertainty.failed
    return {
        "levels": [[interval.low, interval.high] for interval in uncertainty.predicted.values()],
        "kl": [uncertainty.kl.low, uncertainty.kl.high],
        "resamples": uncertainty.replications,
        "caution": f"Infeasible on {failed} of {uncertainty.replications} resamples of the prompts." if failed else "",
    }


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.0f} %"


def around(number: float, half_width: float) -> list[float] | None:
    """An interval; None where it is undefined."""
    low, high = number - half_width, number + half_width
    return [low, high] if math.isfinite(low) and math.isfinite(high) else None


def finite(number: float) -> float | None:
    """The number, or None, because JSON has neither nan nor inf."""
    return number if math.isfinite(number) else None


def points(levels: Iterable[Iterable[float]]) -> list[list[float]]:
    """Rows of an array."""
    return [[float(level) for level in row] for row in levels]
