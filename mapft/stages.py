"""The main job up to the trained policy, in stages; each leaves an artifact in the run folder and reuses what is there.

    sample -> score -> solve -> train

samples.parquet, scores.parquet, solution.json, adapter/ and training.json. Samples and scores live in the store beside
the run folders too, so that runs which differ in the palette share them. mapft/closing.py has what comes after.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mapft.config import (
    Config,
    DPOMode,
    EstimatorName,
    ModeConfig,
    PublishedMode,
    ScalarizedMode,
    SequentialMode,
    SimultaneousMode,
    SoupMode,
    TooLong,
    Unattainable,
    fingerprint,
)
from mapft.errors import UserError
from mapft.masking import masked
from mapft.palette import DualSolution, Estimator, Palette, RewardMatrix, Status, adjust, solve_dual
from mapft.paths import resolve
from mapft.rewards import Score, identity, parse
from mapft.sampling.prompts import Prompt, load_prompts, split
from mapft.sampling.store import (
    damaged,
    read_json,
    read_table,
    remove_leftovers,
    stored,
    unwritten,
    write_atomically,
    write_json,
)
from mapft.seeding import derive_seed

PACKAGES = ("mapft", "torch", "transformers", "trl", "peft", "accelerate", "numpy", "scipy")


TRAINING = "training.json"  # in the run folder: the multipliers that training ended with


class Run:
    """One run: its settings, its folder, and what its stages have made so far.

    Under `accelerate launch` every process holds a Run; only the main one samples, scores, solves, evaluates, writes
    and speaks, while the others wait and read.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.main = int(os.environ.get("RANK", "0")) == 0
        self.console = Console(quiet=not self.main, force_jupyter=False)  # rich's own way recurses beside bars
        self.scores: dict[str, Score] = parse(config.rewards)
        self.root = Path(config.output)
        settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_TRAINED}
        settings["rewards"] = self.identities = {name: identity(given) for name, given in config.rewards.items()}
        self.base_files = [path for path in (config.model.path, config.model.adapter, config.data.path) if path]
        paths = [*self.base_files, *(path for score in self.scores.values() for path in score.files())]
        self.files = {path: file_state(path) for path in paths}
        self.fingerprint = fingerprint(settings, self.files)
        name = f"{config.name}-{config.palette.name}-{self.fingerprint}"
        self.folder = Path(config.run_dir) if config.run_dir else self.root / name
        if self.root.resolve().is_relative_to(self.folder.resolve()):
            raise UserError(f"run_dir={config.run_dir} holds output={config.output}; name a folder in or beside that.")

    def open(self, command: str = "") -> None:
        """Make the run folder and write down what the run is; refuse a folder that holds another run."""
        self.command = command
        path = self.folder / "config.json"
        if path.exists() and read_json(path)["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{self.folder} holds a run with other settings (see its config.json); choose another run_dir=."
            )
        if self.main and not path.exists():
            versions = {package: version(package) for package in PACKAGES}
            settings = {
                k: v
                for k, v in dataclasses.asdict(self.config).items()
                if k not in ("evaluation", "decoding", "comparison")
            }
            record = {"fingerprint": self.fingerprint, "command": self.command, "versions": versions}
            record |= {"config": masked(settings)}
            write_json(path, record)

    def tell_of_trust(self) -> None:
        """Say which folders or Hub ids may run code of their own here."""
        model = dataclasses.asdict(self.config.model)
        given = {"model": model} | {f"rewards.{name}": dict(s) for name, s in self.config.rewards.items()}
        for owner, settings in given.items():
            for name, what in _TRUSTING.items():
                if settings.get(name):
                    said = f"{owner}.{name}=true: {what.format(settings.get('path'))} can run on this machine."
                    self.console.print(said, soft_wrap=True, markup=False)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process works on this run; UserError where one does, or where its folder cannot be made."""
        if not self.main:
            yield
            return
        try:
            held = FileLock(self.folder / ".lock").acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"Another process is at work on {self.folder}; wait for it, or choose another run_dir=."
            ) from error
        except OSError as error:
            raise unwritten(self.folder, error) from error
        with held:
            remove_leftovers(self.folder)
            yield

    @cached_property
    def prompts(self) -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
        """(training, pilot, evaluation); the pilot's are training prompts, evaluation's are never seen before."""
        data = self.config.data
        prompts = self.shortened(load_prompts(data), least=2)
        training, held_out = split(prompts, data.evaluation_fraction)
        return training, training[: data.pilot_prompts], held_out[: self.config.evaluation.prompts]

    def shortened(self, prompts: list[Prompt], least: int) -> list[Prompt]:
        """What is left of the prompts after data.too_long, which is said."""
        data = self.config.data
        if data.too_long is TooLong.stop:
            return prompts
        from mapft.sampling.generate import shortened
        from mapft.sampling.models import load_tokenizer

        kept, long = shortened(prompts, load_tokenizer(self.config.model), data)
        what = f"{long} of {len(prompts)} prompts are longer than data.max_prompt_tokens={data.max_prompt_tokens}"
        if long:
            self.console.print(f"{what}: {_WHAT_IS_DONE[data.too_long]}.", soft_wrap=True)
        if len(kept) < least:
            raise UserError(f"{what}, which leaves {len(kept)}; at least {least} are needed: raise that limit.")
        return kept

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int], None]]:
        """A progress bar per name; call with (name, done, total)."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console) as bars:
            tasks: dict[str, Any] = {}

            def update(name: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = bars.add_task(name, total=total)
                bars.update(tasks[name], completed=done)

            yield update

    # ------------------------------------------------------------------ sample, score, solve

    def sample(self) -> pd.DataFrame:
        """Base samples of the pilot prompts -> samples.parquet."""
        draw = lambda: stored(self.root / "store", "samples", self._sampling_depends(), self._draw_pilot)  # noqa: E731
        return self._kept("samples", draw)

    def score(self) -> RewardMatrix:
        """Every pilot sample under every value -> scores.parquet."""
        samples = self.sample()
        table = self._kept("scores", lambda: self.score_samples(samples, "scoring"))
        return RewardMatrix(table[list(self.scores)].to_numpy(), list(self.scores), table["prompt_id"].to_numpy())

    def solve(self) -> DualSolution:
        """The palette's lambda, or the sentence why there is none -> solution.json."""
        path = self.folder / "solution.json"
        if path.exists():
            try:
                return DualSolution.from_dict(read_json(path)["solution"])
            except (KeyError, TypeError, AttributeError) as error:
                raise damaged(path, error) from error
        matrix = self.score()
        palette = make_palette(self.config, matrix, self.scores)
        estimator = ESTIMATORS[self.config.dual.estimator]
        solution = solve_dual(matrix, palette, estimator=estimator)
        adjusted = solution.status is not Status.optimal
        if adjusted:
            nearest = adjust(matrix, palette, floor_ess=self.config.dual.floor_ess, estimator=estimator)
            if self.config.dual.if_unattainable is Unattainable.stop:
                raise UserError(_unattainable(solution, palette, nearest.new))
            solution = nearest.solution
        record = {"base": matrix.base, "sd": matrix.sd, "asked": dict(palette.targets), "adjusted": adjusted}
        if self.main:
            write_json(path, record | {"solution": solution.to_dict()})
        return solution

    def _sampling_depends(self) -> dict[str, Any]:
        config = self.config
        return {
            "model": dataclasses.asdict(config.model),
            "data": dataclasses.asdict(config.data),
            "sampling": dataclasses.asdict(config.sampling),
            "seed": config.seed,
            "files": {path: self.files[path] for path in self.base_files},
        }

    def scoring_depends(self) -> dict[str, Any]:
        """Everything that samples and their scores depend on."""
        return self._sampling_depends() | {"rewards": self.identities, "files": self.files}

    def _kept(self, kind: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """From the run folder, else made and kept there."""
        path = self.folder / f"{kind}.parquet"
        if not path.exists():
            table = make()
            write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))
        return read_table(path)

    def _draw_pilot(self) -> pd.DataFrame:
        from mapft.sampling.generate import draw, refuse_long, tokenize
        from mapft.sampling.models import load_policy

        config = self.config
        policy, tokenizer = load_policy(config.model)
        training, pilot, held_out = self.prompts
        refuse_long(tokenize(training + held_out, tokenizer), policy, config.data, config.sampling)
        prompts = tokenize(pilot, tokenizer)
        with self.progress() as progress:
            return draw(
                policy,
                tokenizer,
                prompts,
                config.sampling,
                config.sampling.samples_per_prompt,
                derive_seed(config.seed, "pilot"),
                lambda done, total: progress("sampling the base policy", done, total),
            )

    def score_samples(self, samples: pd.DataFrame, what: str) -> pd.DataFrame:
        """Scores are kept in the store value by value, so that another value or palette scores only what is new."""
        from mapft.rewards.scoring import score_texts

        prompts, responses = samples["prompt"].tolist(), samples["response"].tolist()
        keep = {}
        for name, score in self.scores.items():
            files = {path: self.files[path] for path in score.files()}
            found_under = fingerprint(self.identities[name], files, prompts, responses)
            keep[name] = self.root / "store" / f"score-{name}-{found_under}"
        with self.progress() as progress:
            matrix = score_texts(
                self.scores,
                prompts,
                responses,
                samples["prompt_id"].tolist(),
                lambda name, done, total: progress(f"{what}: {name}", done, total),
                keep,
            )
        table = pd.DataFrame(matrix.scores, columns=list(matrix.values))
        table.insert(0, "prompt_id", matrix.prompt_ids)
        return table

    # ------------------------------------------------------------------ train, evaluate

    def train(self) -> Path:
        """Move the policy as the mode says -> adapter/, training.json; goes on from the last checkpoint of a kill."""
        adapter, record = self.folder / "adapter", self.folder / TRAINING
        if not record.exists():
            lam = self._train()
            if self.main:
                write_json(record, {"mode": self.config.mode.name, "lam": lam})
        return adapter

    def _train(self) -> dict[str, float] | None:
        """adapter/, and the multipliers that the policy was trained towards, where it was."""
        from mapft.align import baselines
        from mapft.align.sequential import Sequential
        from mapft.align.simultaneous import train

        config, mode, folder, solution = self.config, self.config.mode, self.folder, self.solve()
        sd, prompts = self.score().sd, self.prompts[0]
        if isinstance(mode, SequentialMode):
            return Sequential(config, self.scores, solution.targets, sd, prompts, folder, self.progress).train()
        if isinstance(mode, SoupMode):
            kept = {
                name: self.variant(ScalarizedMode(name="scalarized", weights={name: 1.0}, kl=mode.kl))
                for name in mode.weights
            }
            adapters = {}
            for name, run in kept.items():
                with run.alone():
                    adapters[name] = run.train()
            baselines.average(config.model, adapters, mode.weights, folder)
            return None
        if isinstance(mode, DPOMode):
            baselines.dpo(config, self.prompts[1], self.sample(), self.score(), solution.lam, folder)
            return None
        if isinstance(mode, SimultaneousMode):
            return train(config, self.scores, solution, sd, prompts, folder)
        baseline = baselines.published if isinstance(mode, PublishedMode) else baselines.scalarized
        return baseline(config, self.scores, solution, self.score(), prompts, folder)

    def variant(self, mode: ModeConfig) -> "Run":
        """The same run in another mode, in its own folder, on the same samples, scores and solution."""
        run = Run(dataclasses.replace(self.config, mode=mode, run_dir=None))
        run.console.quiet = self.console.quiet
        run.open(self.command)
        return run

    def join_training(self) -> None:
        """What a process other than the main one does: wait for lambda, then take part in training."""
        while not (self.folder / "solution.json").exists():
            time.sleep(0.2)
        self.train()


ESTIMATORS: dict[EstimatorName, Estimator | None] = {
    EstimatorName.auto: None,
    EstimatorName.centered: "centered",
    EstimatorName.pooled: "pooled",
    EstimatorName.per_prompt: "per_prompt",
}
_WHAT_IS_DONE = {
    TooLong.drop: "left out",
    TooLong.cut: "cut (texts keep their ends; messages are left out)",
}
_TRUSTING = {
    "trust_remote_code": "Python code that comes with {}",
    "allow_pickle": "code within the pickled weights of {}",
}
_NOT_TRAINED = ("tracking", "launch", "output", "run_dir", "evaluation", "decoding", "comparison")


def make_palette(config: Config, matrix: RewardMatrix, scores: Mapping[str, Score]) -> Palette:
    """The targets that the settings ask for, on the base scores of the pilot."""
    makers: dict[str, Callable[[dict[str, float]], Palette]] = {
        "quantiles": lambda asked: Palette.from_quantiles(matrix, asked),
        "relative_gain": lambda asked: Palette.from_relative_gain(matrix, asked, "log_probability"),
        "relative_gain_probability": lambda asked: Palette.from_relative_gain(matrix, asked, "probability"),
        "sd": lambda asked: Palette.from_sd(matrix, asked),
        "absolute": Palette,
    }
    targets: dict[str, float] = {}
    for way, asked in config.palette.ways().items():
        _refuse_other_units(way, asked, scores)
        targets |= makers[way](asked).targets
    for name, target in targets.items():
        low, high = scores[name].bounds
        if not low <= target <= high:
            raise UserError(
                f"The target of {name} is {target:.4g}, beyond what its score can be ({low:g} to {high:g}); ask for "
                "less."
            )
    return Palette(targets)


def _refuse_other_units(way: str, asked: Mapping[str, float], scores: Mapping[str, Score]) -> None:
    unit = {"relative_gain": "nats", "relative_gain_probability": "probability"}.get(way, "")
    wrong = [f"{name} ({scores[name].unit})" for name in asked if not scores[name].unit.startswith(unit)]
    if wrong:
        raise UserError(
            f"palette.{way} is for scores in {unit}, and {', '.join(wrong)} is none; use quantiles, sd or absolute."
        )


def _unattainable(solution: DualSolution, palette: Palette, nearest: Palette) -> str:
    listed = ", ".join(f"{name} {palette.targets[name]:.4g} -> {c:.4g}" for name, c in nearest.targets.items())
    return (
        f"{solution.status.sentence} Margin {solution.margin:.4f} sd; nearest attainable palette: {listed} "
        "(dual.if_unattainable=nearest takes it)."
    )


def file_state(path: str) -> list[list[Any]]:
    """Name, size and time of the files behind a local path; empty for a Hub id, which its revision describes."""
    local = Path(resolve(path)).expanduser()
    files = sorted(local.iterdir()) if local.is_dir() else [local] if local.is_file() else []
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file() and f.name != "README.md"]
