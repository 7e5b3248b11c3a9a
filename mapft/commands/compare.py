"""`mapft compare`: what other methods reach with the same base, prompts and number of scored responses.

Every method that trains is a run in another mode, in its own folder, so a comparison that was stopped continues where
it was. What is shown of it: comparison.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from mapft.commands.comparison import Point, markdown, quadrant, short_table, skipped, write_comparison
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
from mapft.utils.terminal import print_table

Source = ModeConfig | PolicyConfig | None  # a mode to train in, decoding, or the base policy itself


def compare(run: Run) -> Path:
    """comparison/: comparison.html and .md, points.json, points.csv, and the figures."""
    from mapft.evaluation.report import policy_frame

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
    frame = policy_frame({name: point.result for name, point in points.items()})
    write_atomically(folder / "points.csv", lambda temporary: frame.to_csv(temporary, index=False))
    prompts = base["prompt_id"].nunique()
    page = write_comparison(run, points, failed, prompts)
    headings, rows = short_table(run, points)
    caption = f"Level minus target in sd, on {prompts} held-out prompts. {quadrant(points)}"
    print_table(run.console, headings, rows, title="Comparison", caption=caption)
    for sentence in skipped(failed):
        run.console.print(sentence, soft_wrap=True)
    return page


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
