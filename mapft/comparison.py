"""`mapft compare`: what other methods do with the same base, prompts and number of scored responses.

Every method that trains is a run in another mode, in its own folder, so a comparison that was stopped goes on where it
was. Each policy is one point: its levels on the held-out prompts, judged by the same frozen scores. The question is
whether the point lies in the palette's quadrant: every target met.
"""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mapft.align.sequential import read_stages
from mapft.closing import evaluate_policy
from mapft.config import (
    Choose,
    DPOMode,
    Method,
    ModeConfig,
    PolicyConfig,
    PublishedMode,
    ScalarizedMode,
    SequentialMode,
    SimultaneousMode,
    SoupMode,
)
from mapft.errors import UserError
from mapft.evaluation.realized import BASE, describe
from mapft.evaluation.report import policy_frame
from mapft.sampling.store import write_atomically, write_json, write_text
from mapft.seeding import derive_seed
from mapft.stages import Run

Way = ModeConfig | PolicyConfig | None  # a mode to train in, decoding, or nothing at all


def compare(run: Run) -> Path:
    """comparison/: points.json, points.csv, comparison.md, and the picture."""
    settings, folder, points, failed = run.config.evaluation, run.folder / "comparison", {}, {}
    base = evaluate_policy(run, BASE, None)
    ways = list(contenders(run))
    for number, (name, family, way) in enumerate(ways, 1):
        run.console.print(f"{number} of {len(ways)}: {name}", soft_wrap=True, markup=False)
        try:
            table = base if way is None else _evaluated(run, name, way)
        except UserError as error:  # of this method alone; the others go on
            failed[name] = str(error)
            run.console.print(f"Not made: {error}", soft_wrap=True, markup=False)
            continue
        found = describe(table, base, list(run.scores), settings, run.config.seed)
        points[name] = found | {"family": family, "met": met(run, found), "scored": scored(run, way)}
        write_text(folder / "comparison.md", markdown(run, points, failed))
        write_json(folder / "points.json", {"targets": run.solve().targets, "points": points, "failed": failed})
    _draw(run, points, folder)
    frame = policy_frame(points)
    write_atomically(folder / "points.csv", lambda temporary: frame.to_csv(temporary, index=False))
    run.console.print(markdown(run, points, failed), soft_wrap=True, markup=False)
    return folder / "comparison.md"


def contenders(run: Run) -> Iterator[tuple[str, str, Way]]:
    """(name, family, way to it), the base policy first."""
    yield "base", "base", None
    settings, own, sd = run.config.comparison, run.config.mode, run.score().sd
    values = [name for name in run.solve().targets if sd[name] > 0]  # nothing moves a constant value
    seed = derive_seed(run.config.seed, "weights")

    def mine(mode: ModeConfig) -> ModeConfig:
        """This run's own settings of the mode, where it is in that mode."""
        return own if type(own) is type(mode) else mode

    makers: dict[Method, Callable[[], list[tuple[str, Way]]]] = {
        Method.simultaneous: lambda: [("", mine(SimultaneousMode(name="simultaneous")))],
        Method.sequential: lambda: [("", mine(SequentialMode(name="sequential")))],
        Method.decoding: lambda: [(f"n={settings.candidates}", _decoding(settings.candidates, Choose.draw))],
        Method.best_of_n: lambda: [(f"n={settings.candidates}", _decoding(settings.candidates, Choose.best))],
        Method.single: lambda: [(value, _scalarized({value: 1.0})) for value in values],
        Method.morlhf: lambda: [
            (_listed(weights), _scalarized(weights))
            for weights in random_weights(values, settings.random_weights, seed)
        ],
        Method.soup: lambda: [
            (_listed(weights), SoupMode(name="soup", weights=weights)) for weights in grid(values, settings.soup_steps)
        ],
        Method.dpo: lambda: [("", mine(DPOMode(name="dpo")))],
        Method.published: lambda: [("", mine(PublishedMode(name="published")))],
    }
    for method in settings.methods:
        for which, way in makers[method]():
            yield f"{method.value} {which}".strip(), method.value, way


def random_weights(values: list[str], count: int, seed: int) -> list[dict[str, float]]:
    """Drawn evenly from the simplex, to three digits; one value alone has no mixtures, which is method `single`."""
    if len(values) < 2:
        return []
    rows = np.random.default_rng(seed).dirichlet(np.ones(len(values)), size=count).round(3)
    return [dict(zip(values, row.tolist(), strict=True)) for row in np.unique(rows, axis=0)]


def grid(values: list[str], steps: int) -> list[dict[str, float]]:
    """All mixtures of two values or more whose weights are multiples of 1/steps; one value alone is method `single`."""
    points = (point for point in product(range(steps + 1), repeat=len(values)) if sum(point) == steps)
    mixed = [{name: k / steps for name, k in zip(values, point, strict=True) if k} for point in points]
    return [weights for weights in mixed if len(weights) > 1]


def met(run: Run, found: dict[str, Any]) -> bool:
    """Whether the point lies in the palette's quadrant, evaluation.tolerance_sd allowed on every side."""
    sd, allowed = run.score().sd, run.config.evaluation.tolerance_sd
    judged = {name: c for name, c in run.solve().targets.items() if sd[name] > 0}
    return all(found["levels"][name]["mean"] >= c - allowed * sd[name] for name, c in judged.items())


def scored(run: Run, way: Way) -> int:
    """Responses that were scored to make the policy, beyond the pilot's; for decoding, to give one response."""
    episodes, mode = run.config.trainer.total_episodes, run.config.mode
    if isinstance(way, SequentialMode):
        stages, pilot = read_stages((run if way == mode else run.variant(way)).folder), len(run.score())
        return sum(pilot + (0 if stage.skipped else way.stage_episodes) for stage in stages)
    if isinstance(way, SoupMode):
        return len(way.weights) * episodes
    if isinstance(way, PolicyConfig):
        return way.candidates or 0
    return 0 if way is None or isinstance(way, DPOMode) else episodes


def markdown(run: Run, points: dict[str, Any], failed: dict[str, str]) -> str:
    """One row per policy, and the share of each family's points in the quadrant."""
    targets, sd = run.solve().targets, run.score().sd
    gaps = " | ".join(f"{name} (gap in sd)" for name in targets)
    lines = [f"| policy | {gaps} | KL (nats) | scored | all targets met |"]
    lines.append("|" + "---|" * (len(targets) + 4))
    for name, found in points.items():
        levels = (
            f"{found['levels'][v]['mean']:.3f} ({(found['levels'][v]['mean'] - c) / (sd[v] or 1):+.2f})"
            for v, c in targets.items()
        )
        kl, bound = found["kl"]["mean"], "≤ " if found["family"] in ("decoding", "best_of_n") else ""
        cells = [name, *levels, f"{bound}{kl:.2f}", str(found["scored"]), "yes" if found["met"] else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    families: dict[str, list[bool]] = {}
    for found in points.values():
        families.setdefault(found["family"], []).append(found["met"])
    shares = ", ".join(f"{family} {sum(marks)}/{len(marks)}" for family, marks in families.items())
    quadrant = f"Points in the palette's quadrant: {shares}."
    return "\n".join([*lines, "", quadrant, *(f"Not made: {name}. {why}" for name, why in failed.items()), ""])


def _evaluated(run: Run, name: str, way: Way) -> Any:
    if isinstance(way, ModeConfig) and way == run.config.mode:
        way = PolicyConfig(adapter=str(run.train()))
    elif isinstance(way, ModeConfig):
        other = run.variant(way)
        with other.alone():
            way = PolicyConfig(adapter=str(other.train()))
    return evaluate_policy(run, name.replace(" ", "_"), way)


def _draw(run: Run, points: dict[str, Any], folder: Path) -> None:
    from mapft.evaluation import pictures

    pictures.save(pictures.front(run.score(), run.solve(), {"policies": points}), folder, "comparison")


def _decoding(n: int, choose: Choose) -> PolicyConfig:
    return PolicyConfig(candidates=n, choose=choose, samples_per_prompt=1)


def _scalarized(weights: dict[str, float]) -> ScalarizedMode:
    return ScalarizedMode(name="scalarized", weights=weights)


def _listed(weights: dict[str, float]) -> str:
    return " ".join(f"{name}={weight:.3g}" for name, weight in weights.items())
