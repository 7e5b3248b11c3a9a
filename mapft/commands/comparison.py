"""What `mapft compare` shows: the points as tables, sentences, and one page.

Each policy is one point: its levels on the held-out prompts. The question is whether the point lies in the palette's
quadrant, that is, whether it meets every target.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mapft.config import Method
from mapft.evaluation.figures import front, front_levels, save_both
from mapft.evaluation.page import Section, figure, mark, write_page
from mapft.evaluation.result import PolicyResult
from mapft.evaluation.row_figures import Row, contenders, gaps_sd
from mapft.pipeline.run import Run


@dataclass(frozen=True)
class Point:
    """One policy. scored: responses scored to make it, beyond the pilot's; for decoding, to give one response."""

    family: str
    result: PolicyResult
    met: bool
    scored: int

    @property
    def is_bound(self) -> bool:
        """Whether the KL is an upper bound."""
        return self.family in (Method.decoding, Method.best_of_n)

    @property
    def kl_text(self) -> str:
        """The KL in nats."""
        return f"{'≤ ' if self.is_bound else ''}{self.result.kl.mean:.2f}"


def write_comparison(run: Run, points: dict[str, Point], failed: dict[str, str], prompts: int) -> Path:
    """comparison.html and its figures."""
    folder, solution, tolerance = run.folder.comparison, run.solution, run.config.evaluation.tolerance_sd
    rows, curves = (
        [row_of(run, name, point) for name, point in points.items()],
        front_levels(run.matrix, solution, [solution.kl]),
    )
    results = {name: point.result for name, point in points.items()}
    families = {name: point.family for name, point in points.items()}
    save_both(lambda wide: contenders(rows, tolerance, "policy", wide), folder, "gaps")
    save_both(lambda wide: front(solution, results, curves, families=families, wide=wide), folder, "comparison")
    headings, cells = comparison_table(run, points)
    marked = [[*row[:-1], mark(point.met)] for row, point in zip(cells, points.values(), strict=True)]
    gaps = figure(folder, "gaps", f"Gaps to the targets and KL on {prompts} held-out prompts, with intervals.")
    pairs = figure(folder, "comparison", "Levels in pairs, with the front at the palette's KL.")
    parts = [
        Section(
            "gaps", "Gap and price", "A policy meets the palette if its smallest gap is in the shaded part.", [gaps]
        ),
        Section("levels", "Levels in pairs", "Policies of a family share a mark.", [pairs]),
        Section("policies", "All policies", quadrant(points), [], headings, marked),
    ]
    return write_page(
        folder / "comparison.html",
        "overview",
        title=f"{run.config.model.path} at the palette {run.config.palette.name}: comparison",
        answer=answer(points),
        lede="Every method starts from the same base policy and is measured on the same prompts, which none was "
        "trained on. KL, in nats, is the change from the base policy; less is better. A target is met down to "
        f"{tolerance:g} standard deviations (sd) of the base scores below it.",
        notices=skipped(failed),
        sections=[(part.anchor, part.title) for part in parts],
        parts=parts,
    )


def answer(points: dict[str, Point]) -> str:
    """One sentence: how many policies meet the palette, and which of them at the least KL."""
    met = {name: point for name, point in points.items() if point.met}
    if not met:
        return f"None of {len(points)} policies meets every target."
    best = min(met, key=lambda name: met[name].result.kl.mean)
    bound = "at most " if met[best].is_bound else ""
    return (
        f"{len(met)} of {len(points)} policies meet every target; {best} does so at the least KL, {bound}"
        f"{met[best].result.kl.mean:.2f} nats."
    )


def row_of(run: Run, name: str, point: Point) -> Row:
    """The policy as a row of the figure."""
    gaps = gaps_sd(point.result.levels, run.solution.targets, run.matrix.sd)
    return Row(name, gaps, point.result.kl, point.met, point.is_bound)


def markdown(run: Run, points: dict[str, Point], failed: dict[str, str]) -> str:
    """One row per policy, and the share of each family's points in the quadrant."""
    headings, rows = comparison_table(run, points)
    table = pd.DataFrame(rows, columns=headings).to_markdown(index=False, disable_numparse=True)
    return "\n".join([table, "", quadrant(points), *skipped(failed), ""])


def comparison_table(run: Run, points: dict[str, Point]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows): levels with their gaps, a row per policy."""
    targets, sd = run.solution.targets, run.matrix.sd
    headings = ["policy", *(f"{value} (gap in sd)" for value in targets), "KL (nats)", "scored", "all targets met"]
    rows = []
    for name, point in points.items():
        levels = {value: point.result.levels[value].mean for value in targets}
        cells = [f"{level:.3f} ({(level - targets[v]) / (sd[v] or 1):+.2f})" for v, level in levels.items()]
        rows.append([name, *cells, point.kl_text, str(point.scored), "yes" if point.met else "no"])
    return headings, rows


def short_table(run: Run, points: dict[str, Point]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) for the terminal: gaps in sd, and `-` where a score is constant."""
    targets = run.solution.targets
    rows = []
    for name, point in points.items():
        gaps = row_of(run, name, point).gaps
        cells = [f"{gaps[value].mean:+.2f}" if value in gaps else "-" for value in targets]
        rows.append([name, *cells, point.kl_text, str(point.scored), "yes" if point.met else "no"])
    return ["policy", *targets, "KL (nats)", "scored", "all met"], rows


def quadrant(points: dict[str, Point]) -> str:
    """The share of each family's points that meet every target."""
    families: dict[str, list[bool]] = {}
    for point in points.values():
        families.setdefault(point.family, []).append(point.met)
    shares = ", ".join(f"{family} {sum(marks)}/{len(marks)}" for family, marks in families.items())
    return f"Points in the palette's quadrant: {shares}."


def skipped(failed: dict[str, str]) -> list[str]:
    """A sentence for each method that could not be compared."""
    return [f"Skipped: {name}. {reason}" for name, reason in failed.items()]
