"""HTML and SVG of a view. Every text from a file goes through `escape`.

Colors follow the page (currentColor), so that dark mode works; lines and marks differ in shape too.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from mapft.palette import ScoreMatrix, Status
from mapft.palette.explain import display_units, format_number, infeasibility_sentence
from mapft.ui.board import Board, View

STATUS_LABELS = {
    Status.optimal: "Feasible",
    Status.boundary: "On the boundary",
    Status.infeasible: "Infeasible",
}
ACCENT, SECOND = "#d55e00", "#0072b2"  # of Okabe and Ito, for color-blind readers


def verdict(view: View, matrix: ScoreMatrix) -> str:
    """Status and margin; KL and effective samples of a feasible palette, the certificate of an infeasible one."""
    solution = view.solution
    lines = [f'<strong class="{"yes" if view.feasible else "no"}">{STATUS_LABELS[solution.status]}.</strong>']
    if math.isfinite(solution.margin):
        lines.append(f"Margin {solution.margin:+.3f} sd.")
    above_best = [name for name, c in solution.targets.items() if c > matrix.column(name).max()]
    if view.feasible and above_best:
        names = escape(", ".join(above_best))
        lines.append(f"Above the best sample of {names}: the {solution.estimator} estimator extrapolates there.")
    if view.feasible and view.analysis is not None:
        share = solution.ess / len(matrix)
        lines.append(
            f"KL to the base policy {format_number(solution.kl)} nats; {solution.ess:.0f} of {len(matrix)} samples "
            f"effective ({share:.0%}), {view.analysis.ess_per_prompt:.1f} for the median prompt."
        )
        if view.analysis.ess_worst_prompt < 1.5 and solution.estimator != "pooled":
            lines.append("For the worst prompt a single sample is effective: generate more samples per prompt.")
    else:
        lines.append(escape(infeasibility_sentence(matrix, solution)))
    return f'<p class="verdict" role="status">{" ".join(lines)}</p>'


def levels(view: View, board: Board) -> str:
    """A row per value: base, target, lambda, predicted level and its quantile, price."""
    head = (
        "value",
        "base",
        "target",
        "lambda",
        "predicted",
        "quantile",
        "price of one sd",
        "effect on others, sd per sd",
    )
    rows = []
    for name in board.matrix.values:
        solution, (sd, per_sd) = view.solution, display_units(board.matrix, name)
        target = solution.targets.get(name)
        predicted = solution.predicted[name]
        price = view.analysis.price_per_sd.get(name, 0.0) if view.analysis else math.nan
        rows.append(
            [
                escape(name),
                format_number(board.matrix.base[name], sd),
                "free" if target is None else format_number(target, sd),
                format_number(solution.lam[name], per_sd),
                format_number(predicted, sd),
                f"{board.position('quantile', name, predicted):.2f}" if math.isfinite(predicted) else "-",
                f"{format_number(price)} nats" if target is not None and sd > 0 and view.feasible else "",
                _side_effects(view, board, name),
            ]
        )
    return _table(head, rows)


def _side_effects(view: View, board: Board, raised: str) -> str:
    """Change of the other values' levels, in their sd, per sd of this value's target."""
    if view.analysis is None:
        return ""
    sd, effects_on = board.matrix.sd, []
    for other, effects in view.analysis.side_effects.items():
        if other != raised and raised in effects and sd[other] > 0:
            effect = effects[raised] * sd[raised] / sd[other]
            if abs(effect) >= 0.05:
                effects_on.append(f"{escape(other)} {effect:+.2f}")
    return ", ".join(effects_on) or "none"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="levels"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def samples(board: Board, view: View, prompt_id: int, limit: int = 12) -> str:
    """The candidates of a prompt by descending probability under p_lam, beside 1/K, that of the base policy."""
    if not board.responses:
        return "<p>Texts are missing; open a run folder, or scores with the columns prompt and response.</p>"
    if not view.feasible:
        return "<p>An infeasible palette has no probabilities.</p>"
    if prompt_id not in board.prompt_texts:
        return "<p>Choose a prompt.</p>"
    texts, probability_K, _ = board.candidates(prompt_id, view.solution)
    rows = []
    for k in np.argsort(-probability_K)[:limit]:
        share = f'<meter min="0" max="1" value="{probability_K[k]:.4f}"></meter> {probability_K[k]:.1%}'
        rows.append([share, f"{1 / len(texts):.1%}", escape(texts[k])])
    return _table(("under p_lam", "base", "response"), rows)


# ---------------------------------------------------------------------- plots


def radar(board: Board, view: View) -> str:
    """Every value's base level and predicted level, as quantiles of the base scores."""
    values = board.matrix.values
    angles = [2 * math.pi * k / len(values) - math.pi / 2 for k in range(len(values))]

    def ring(levels: Mapping[str, float]) -> str:
        share = [board.position("quantile", name, levels[name]) for name in values]
        return " ".join(
            f"{100 * s * math.cos(a):.1f},{100 * s * math.sin(a):.1f}" for s, a in zip(share, angles, strict=True)
        )

    parts = [f'<circle r="{100 * share:.0f}" class="grid"/>' for share in (0.25, 0.5, 0.75, 1.0)]
    for name, angle in zip(values, angles, strict=True):
        x, y = math.cos(angle), math.sin(angle)
        anchor = "middle" if abs(x) < 0.2 else "start" if x > 0 else "end"
        parts.append(f'<line x2="{100 * x:.1f}" y2="{100 * y:.1f}" class="grid"/>')
        parts.append(
            f'<text x="{110 * x:.1f}" y="{110 * y + 4:.1f}" text-anchor="{anchor}">{escape(_short(name))}</text>'
        )
    parts.append(f'<polygon points="{ring(board.matrix.base)}" class="base"/>')
    if view.feasible:
        parts.append(f'<polygon points="{ring(view.solution.predicted)}" class="predicted"/>')
    parts.append(_legend(-110, 138, [("base", "base"), ("predicted", "predicted")]))
    return _svg("-190 -130 380 285", "Each level as a quantile of the base scores", parts)


def trade_off(board: Board, view: View, first: str, second: str) -> str:
    """The feasible levels of two values, the front at the palette's KL, base, targets and predicted levels."""
    if first == second:
        return "<p>Choose two different values to see their trade-off.</p>"
    region = board.region(first, second)
    lines = [region]
    if view.feasible and view.solution.kl > 0:
        lines.append(board.front(first, second, view.solution.kl))
    points = np.concatenate(lines)
    low, high = points.min(axis=0), points.max(axis=0)
    width = np.where(high > low, high - low, 1.0)

    def scaled(point: Sequence[float] | np.ndarray) -> tuple[float, float]:
        x, y = (np.asarray(point) - low) / width
        return 300 * x, 200 * (1 - y)

    def path(points: np.ndarray) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(scaled, points))

    parts = [f'<polygon points="{path(region)}" class="region"/>']
    if len(lines) > 1:
        parts.append(f'<polyline points="{path(lines[1])}" class="front"/>')
    base = [board.matrix.base[first], board.matrix.base[second]]
    parts.append('<circle cx="{:.1f}" cy="{:.1f}" r="4" class="mark base"/>'.format(*scaled(base)))
    targets = view.solution.targets
    goal = [targets.get(first, base[0]), targets.get(second, base[1])]
    x, y = (min(max(v, -8), limit) for v, limit in zip(scaled(goal), (308, 208), strict=True))
    parts.append(f'<path d="M{x - 6:.1f} {y:.1f}h12M{x:.1f} {y - 6:.1f}v12" class="mark target"/>')
    if view.feasible:
        x, y = scaled([view.solution.predicted[first], view.solution.predicted[second]])
        parts.append(f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" class="mark predicted"/>')
    for k, name in enumerate((first, second)):
        ends = " to ".join(format_number(float(end[k]), board.matrix.sd[name]) for end in (low, high))
        label = f"{escape(_short(name))}: {ends}"
        turn = (
            'x="150" y="226" text-anchor="middle"'
            if k == 0
            else 'transform="translate(-12 100) rotate(-90)" text-anchor="middle"'
        )
        parts.append(f"<text {turn}>{label}</text>")
    parts.append(
        _legend(
            0,
            248,
            [
                ("region", "feasible"),
                ("front", "front at this KL"),
                ("target", "target"),
                ("predicted", "predicted"),
            ],
        )
    )
    return _svg("-35 -12 350 286", f"Levels of {escape(first)} and {escape(second)}", parts)


def _legend(x: float, y: float, entries: Sequence[tuple[str, str]]) -> str:
    parts = []
    for k, (kind, label) in enumerate(entries):
        left, line = x + 150 * (k % 2), y + 16 * (k // 2)
        if kind == "front":
            parts.append(f'<line x1="{left}" x2="{left + 14}" y1="{line - 4}" y2="{line - 4}" class="front"/>')
        elif kind == "target":
            parts.append(f'<path d="M{left + 1} {line - 4}h12M{left + 7} {line - 10}v12" class="mark target"/>')
        else:
            parts.append(f'<rect x="{left}" y="{line - 9}" width="12" height="10" class="{kind}"/>')
        parts.append(f'<text x="{left + 18}" y="{line}">{label}</text>')
    return "".join(parts)


def _svg(box: str, title: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="{box}" role="img" class="plot"><title>{title}</title>{"".join(parts)}</svg>'


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


STYLE = f"""
.plot {{ width: 100%; max-height: 22rem; color: inherit; font-size: 11px; }}
.plot text {{ fill: currentColor; }}
.plot .grid {{ fill: none; stroke: currentColor; stroke-opacity: .25; }}
.plot .base {{ fill: {SECOND}; fill-opacity: .25; stroke: {SECOND}; stroke-width: 1.5; stroke-dasharray: 4 2; }}
.plot .predicted {{ fill: {ACCENT}; fill-opacity: .3; stroke: {ACCENT}; stroke-width: 2; }}
.plot .region {{ fill: currentColor; fill-opacity: .08; stroke: currentColor; stroke-opacity: .4; }}
.plot .front {{ fill: none; stroke: currentColor; stroke-width: 1.5; }}
.plot .mark.base {{ fill-opacity: 1; stroke-dasharray: none; }}
.plot .mark.predicted {{ fill-opacity: 1; }}
.plot .mark.target {{ fill: none; stroke: currentColor; stroke-width: 2; }}
.verdict {{ font-size: 1.05rem; min-height: 3.2rem; }}
.verdict .yes::before {{ content: "✓ "; }} .verdict .no::before {{ content: "✗ "; }}
.verdict .yes {{ color: {SECOND}; }} .verdict .no {{ color: {ACCENT}; }}
.scroll {{ overflow-x: auto; }}
.levels {{ border-collapse: collapse; width: 100%; }}
.levels td, .levels th {{ padding: .25rem .6rem; text-align: left; border-bottom: 1px solid rgba(128,128,128,.35);
  white-space: pre-wrap; vertical-align: top; }}
"""
