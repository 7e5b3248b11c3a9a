"""`mapft compare`: what other methods reach with the same base, prompts and number of scored responses.

Every method that trains is a run in another mode, in its own folder, so a comparison that was stopped continues where
it was. Each policy is one point: its levels on the held-out prompts. The question is whether the point lies in the
palette's quadrant, that is, whether it meets every target.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from mapft.config import BASE, Choose, Method, ModeConfig, PolicyConfig
from mapft.evaluation.levels import describe
from mapft.evaluation.result import PolicyResult
from mapft.pipeline.evaluate import policy_responses
from mapft.pipeline.run import Run
from mapft.pipeline.train import train, train_variant
from mapft.training.modes.dpo import DPO
from mapft.training.modes.published import Published
from mapft.training.modes.scalarized import Scalarized
from mapft.training.modes.sequential import Sequential
from mapft.training.modes.simultaneous import Simultaneous
from mapft.training.modes.soup import Soup
from mapft.utils.errors import UserError
from mapft.utils.files import write_atomically, write_json, write_text
from mapft.utils.seeds import derive_seed

Source = ModeConfig | PolicyConfig | None  # a mode to train in, decoding, or the base policy itself


@dataclass(frozen=True)
class Point:
    """One policy. scored: responses scored to make it, beyond the pilot's; for decoding, to give one response."""

    family: str
    result: PolicyResult
    met: bool
    scored: int


def compare(run: Run) -> Path:
    """comparison/: points.json, points.csv, comparison.md, and the figure."""
    from mapft.evaluation.figures import front
    from mapft.evaluation.report import policy_frame
    from mapft.evaluation.style import save

    settings, folder = run.config.evaluation, run.folder.comparison
    points: dict[str, Point] = {}
    failed: dict[str, str] = {}
    base = policy_responses(run, BASE, None)
    contenders = list(contenders_of(run))
    for number, (name, family, source) in enumerate(contenders, 1):
        run.console.print(f"{number} of {len(contenders)}: {name}", soft_wrap=True)
        try:
            table = base if source is None else _responses(run, name, source)
        except UserError as error:  # of this method alone; the others continue
            failed[name] = str(error)
            run.console.print(f"Skipped: {error}", soft_wrap=True)
        else:
            result = describe(table, base, list(run.scores), settings, run.config.seed)
            points[name] = Point(family, result, all_met(run, result), scored_responses(run, source))
        write_text(folder / "comparison.md", markdown(run, points, failed))
        content = {"targets": run.solution.targets, "points": {name: asdict(p) for name, p in points.items()}}
        write_json(folder / "points.json", content | {"failed": failed})
    results = {name: point.result for name, point in points.items()}
    families = {name: point.family for name, point in points.items()}
    save(front(run.matrix, run.solution, results, families=families), folder, "comparison")
    frame = policy_frame(results)
    write_atomically(folder / "points.csv", lambda temporary: frame.to_csv(temporary, index=False))
    run.console.print(markdown(run, points, failed), soft_wrap=True)
    return folder / "comparison.md"


def contenders_of(run: Run) -> Iterator[tuple[str, str, Source]]:
    """(name, family, source), the base policy first."""
    yield "base", "base", None
    settings, own, sd = run.config.comparison, run.config.mode, run.matrix.sd
    values = [name for name in run.solution.targets if sd[name] > 0]  # no policy moves a constant value
    seed = derive_seed(run.config.seed, "weights")

    def configured(mode: ModeConfig) -> ModeConfig:
        """The run's own settings of the mode, where the run is in that mode."""
        return own if type(own) is type(mode) else mode

    def decoding(choose: Choose) -> list[tuple[str, Source]]:
        n = settings.candidates
        return [(f"n={n}", PolicyConfig(candidates=n, choose=choose, samples_per_prompt=1))]

    def mixtures(weights: list[dict[str, float]]) -> list[tuple[str, Source]]:
        return [(_weights_text(each), Scalarized(name="scalarized", weights=each)) for each in weights]

    makers: dict[Method, Callable[[], list[tuple[str, Source]]]] = {
        Method.simultaneous: lambda: [("", configured(Simultaneous(name="simultaneous")))],
        Method.sequential: lambda: [("", configured(Sequential(name="sequential")))],
        Method.decoding: lambda: decoding(Choose.sample),
        Method.best_of_n: lambda: decoding(Choose.best),
        Method.single: lambda: [(name, Scalarized(name="scalarized", weights={name: 1.0})) for name in values],
        Method.morlhf: lambda: mixtures(random_weights(values, settings.random_weights, seed)),
        Method.soup: lambda: [
            (_weights_text(each), Soup(name="soup", weights=each)) for each in grid(values, settings.soup_steps)
        ],
        Method.dpo: lambda: [("", configured(DPO(name="dpo")))],
        Method.published: lambda: [("", configured(Published(name="published")))],
    }
    for method in settings.methods:
        for label, source in makers[method]():
            yield f"{method.value} {label}".strip(), method.value, source


def random_weights(values: list[str], count: int, seed: int) -> list[dict[str, float]]:
    """Uniform on the simplex, to three digits; none for a single value, which is method `single`."""
    if len(values) < 2:
        return []
    rows = np.random.default_rng(seed).dirichlet(np.ones(len(values)), size=count).round(3)
    return [dict(zip(values, row.tolist(), strict=True)) for row in np.unique(rows, axis=0)]


def grid(values: list[str], steps: int) -> list[dict[str, float]]:
    """All mixtures of two or more values whose weights are multiples of 1/steps."""
    points = (point for point in product(range(steps + 1), repeat=len(values)) if sum(point) == steps)
    mixed = [{name: k / steps for name, k in zip(values, point, strict=True) if k} for point in points]
    return [weights for weights in mixed if len(weights) > 1]


def all_met(run: Run, result: PolicyResult) -> bool:
    """Whether the levels meet every target, down to evaluation.tolerance_sd below it."""
    sd, tolerance = run.matrix.sd, run.config.evaluation.tolerance_sd
    judged = {name: c for name, c in run.solution.targets.items() if sd[name] > 0}
    return all(result.levels[name].mean >= c - tolerance * sd[name] for name, c in judged.items())


def scored_responses(run: Run, source: Source) -> int:
    """Responses that were scored to make the policy, beyond the pilot's; for decoding, to give one response."""
    if isinstance(source, ModeConfig):
        folder = (run if source == run.config.mode else run.variant(source)).folder
        return source.scored_responses(run.config.trainer.total_episodes, len(run.matrix), folder)
    return (source.candidates or 0) if source else 0


def markdown(run: Run, points: dict[str, Point], failed: dict[str, str]) -> str:
    """One row per policy, and the share of each family's points in the quadrant."""
    targets, sd = run.solution.targets, run.matrix.sd
    rows = []
    for name, point in points.items():
        row = {"policy": name}
        for value, target in targets.items():
            level = point.result.levels[value].mean
            row[f"{value} (gap in sd)"] = f"{level:.3f} ({(level - target) / (sd[value] or 1):+.2f})"
        bound = "≤ " if point.family in ("decoding", "best_of_n") else ""
        row |= {"KL (nats)": f"{bound}{point.result.kl.mean:.2f}", "scored": str(point.scored)}
        rows.append(row | {"all targets met": "yes" if point.met else "no"})
    families: dict[str, list[bool]] = {}
    for point in points.values():
        families.setdefault(point.family, []).append(point.met)
    shares = ", ".join(f"{family} {sum(marks)}/{len(marks)}" for family, marks in families.items())
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    skipped = [f"Skipped: {name}. {reason}" for name, reason in failed.items()]
    return "\n".join([table, "", f"Points in the palette's quadrant: {shares}.", *skipped, ""])


def _responses(run: Run, name: str, source: ModeConfig | PolicyConfig) -> pd.DataFrame:
    if isinstance(source, ModeConfig):
        if source == run.config.mode:
            train(run)
            adapter = run.folder.adapter
        else:
            adapter = train_variant(run, source)
        source = PolicyConfig(adapter=str(adapter))
    return policy_responses(run, name.replace(" ", "_"), source)


def _weights_text(weights: dict[str, float]) -> str:
    return " ".join(f"{name}={weight:.3g}" for name, weight in weights.items())
