"""The main job in five stages, each leaving an artifact in the run folder and reusing it when it is there.

    sample -> score -> solve -> train -> evaluate

samples.parquet, scores.parquet, solution.json, adapter/, evaluation.json (and report.md). Samples and scores live in
the store beside the run folders too, so that runs which differ in the palette share them.
"""

import dataclasses
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mapft.config import Config, EstimatorName, Quantization, SequentialMode, TooLong, Unattainable, fingerprint
from mapft.errors import UserError
from mapft.palette import DualSolution, Estimator, Palette, RewardMatrix, Status, adjust, solve_dual
from mapft.paths import resolve
from mapft.rewards import Score, identity, parse
from mapft.sampling.prompts import Prompt, load_prompts, split
from mapft.sampling.store import read_json, stored, write_atomically, write_json, write_text
from mapft.seeding import derive_seed

PACKAGES = ("mapft", "torch", "transformers", "trl", "peft", "accelerate", "numpy", "scipy")


class Run:
    """One run: its settings, its folder, and what its stages have made so far.

    Under `accelerate launch` every process holds a Run; only the main one samples, scores, solves, evaluates, writes
    and speaks, while the others wait and read.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.main = int(os.environ.get("RANK", "0")) == 0
        self.console = Console(quiet=not self.main, stderr=False)
        self.scores: dict[str, Score] = parse(config.rewards)
        self.root = Path(config.output)
        settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in _NOT_TRAINED}
        settings["rewards"] = self.identities = {name: identity(given) for name, given in config.rewards.items()}
        self.base_files = [path for path in (config.model.path, config.model.adapter, config.data.path) if path]
        paths = [*self.base_files, *(path for score in self.scores.values() for path in score.files())]
        self.files = {path: _file_state(path) for path in paths}
        self.fingerprint = fingerprint(settings, self.files)
        name = f"{config.name}-{config.palette.name}-{self.fingerprint}"
        self.folder = Path(config.run_dir) if config.run_dir else self.root / name

    def open(self) -> None:
        """Make the run folder and write down what the run is; refuse a folder that holds another run."""
        path = self.folder / "config.json"
        if path.exists() and read_json(path)["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{self.folder} holds a run with other settings (see its config.json); choose another run_dir=."
            )
        if self.main and not path.exists():
            versions = {package: version(package) for package in PACKAGES}
            settings = {k: v for k, v in dataclasses.asdict(self.config).items() if k != "evaluation"}
            write_json(path, {"fingerprint": self.fingerprint, "versions": versions, "config": settings})

    @cached_property
    def prompts(self) -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
        """(training, pilot, evaluation); the pilot's are training prompts, evaluation's are never seen before."""
        data = self.config.data
        prompts = load_prompts(data)
        if data.too_long is not TooLong.stop:
            from mapft.sampling.generate import shortened
            from mapft.sampling.models import load_tokenizer

            total, (prompts, long) = len(prompts), shortened(prompts, load_tokenizer(self.config.model), data)
            what = f"{long} of {total} prompts are longer than data.max_prompt_tokens={data.max_prompt_tokens}"
            if long:
                self.console.print(f"{what}: {_WHAT_IS_DONE[data.too_long]}.", soft_wrap=True)
            if len(prompts) < 2:
                raise UserError(f"{what}, which leaves {len(prompts)}; at least 2 are needed: raise that limit.")
        training, held_out = split(prompts, data.evaluation_fraction)
        return training, training[: data.pilot_prompts], held_out[: self.config.evaluation.prompts]

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
        table = self._kept("scores", lambda: self._score(samples, "scoring"))
        return RewardMatrix(table[list(self.scores)].to_numpy(), list(self.scores), table["prompt_id"].to_numpy())

    def solve(self) -> DualSolution:
        """The palette's lambda, or the sentence why there is none -> solution.json."""
        path = self.folder / "solution.json"
        if path.exists():
            return DualSolution.from_dict(read_json(path)["solution"])
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

    def _scoring_depends(self) -> dict[str, Any]:
        return self._sampling_depends() | {"rewards": self.identities, "files": self.files}

    def _kept(self, kind: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """From the run folder, else made and kept there."""
        path = self.folder / f"{kind}.parquet"
        if not path.exists():
            table = make()
            write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))
        return pd.read_parquet(path)

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

    def _score(self, samples: pd.DataFrame, what: str) -> pd.DataFrame:
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
        """PPO towards p_lam -> adapter/; continues from the last checkpoint of a killed run."""
        adapter = self.folder / "adapter"
        if not (adapter / "adapter_config.json").exists():
            solution, sd = self.solve(), read_json(self.folder / "solution.json")["sd"]
            if isinstance(self.config.mode, SequentialMode):
                from mapft.align.sequential import Sequential

                targets, prompts = solution.targets, self.prompts[0]
                Sequential(self.config, self.scores, targets, sd, prompts, self.folder, self.progress).train()
            else:
                from mapft.align.simultaneous import train

                train(self.config, self.scores, solution, sd, self.prompts[0], self.folder)
        return adapter

    def join_training(self) -> None:
        """What a process other than the main one does: wait for lambda, then take part in training."""
        while not (self.folder / "solution.json").exists():
            time.sleep(0.2)
        self.train()

    def show(self, made: Any, as_json: bool) -> None:
        """The artifact of a stage that was called alone, for a reader or (solutions) as JSON for a machine."""
        if isinstance(made, DualSolution):
            self._show_solution(made, as_json)
        else:
            self.console.print(made if isinstance(made, Path) else f"{len(made)} rows.", soft_wrap=True)

    def _show_solution(self, solution: DualSolution, as_json: bool) -> None:
        from mapft.palette import adjustment_table, analyse, bootstrap, explain, table

        matrix = self.score()
        record = read_json(self.folder / "solution.json")
        uncertainty, trouble = None, ""
        with self.console.status("resampling the prompts for intervals"):
            try:
                uncertainty = bootstrap(matrix, solution)
            except UserError as error:
                trouble = f"No intervals: {error}"
        if as_json:
            more = {"analysis": analyse(matrix, solution).to_dict(), "asked": record["asked"]}
            more |= {"adjusted": record["adjusted"], "intervals": uncertainty and uncertainty.to_dict()}
            print(json.dumps(solution.to_dict() | more, indent=2))
            return
        if record["adjusted"]:
            asked = Palette(record["asked"])
            nearest = adjust(matrix, asked, floor_ess=self.config.dual.floor_ess, estimator=solution.estimator)
            self.console.print("The palette asked for is out of reach; this is the nearest one that is not.")
            self.console.print(adjustment_table(matrix, nearest))
        self.console.print(table(matrix, solution, uncertainty))
        self.console.print(explain(matrix, solution, uncertainty), soft_wrap=True)
        if trouble:
            self.console.print(trouble, soft_wrap=True)

    def evaluate(self) -> dict[str, Any]:
        """Realized levels of base and adapter on held-out prompts -> evaluation.json, report.md.

        They are made again when the settings of the evaluation have changed.
        """
        path, settings = self.folder / "evaluation.json", dataclasses.asdict(self.config.evaluation)
        if not path.exists() or read_json(path)["settings"] != settings:
            from mapft.evaluation.report import write_markdown

            summary = self._summary()
            self._draw()
            write_atomically(self.folder / "report.md", lambda temporary: write_markdown(summary, temporary))
            write_json(path, summary | {"settings": settings})
        return read_json(path)

    def export(self) -> Path:
        """The aligned model without adapter -> merged/, and model cards for it and for adapter/."""
        from mapft.evaluation.card import model_card
        from mapft.sampling.models import load_policy, with_adapter

        if self.config.model.quantization is not Quantization.none:
            raise UserError(
                f"model.quantization={self.config.model.quantization.value}: an adapter cannot be merged into a "
                "rounded base without loss; use the adapter as it is."
            )
        summary, record = self.evaluate(), read_json(self.folder / "config.json")
        adapter, merged = self.train(), self.folder / "merged"
        if not merged.exists():
            policy, tokenizer = load_policy(self.config.model)
            whole = with_adapter(policy, adapter).merge_and_unload()
            temporary = self.folder / f".merged.{os.getpid()}.tmp"
            whole.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            temporary.rename(merged)
        for folder, library in ((adapter, "peft"), (merged, "transformers")):
            write_text(folder / "README.md", model_card(summary, record["config"], record["versions"], library))
        return merged

    def _draw(self) -> None:
        """figures/: the training's trajectories and, in sequential mode, its stages."""
        from mapft.evaluation import pictures

        figures, mode, solution = self.folder / pictures.FIGURES, self.config.mode, self.solve()
        if (figures / "trajectories.png").exists():
            return
        folders = [self.folder]
        if isinstance(mode, SequentialMode):
            record = read_json(self.folder / "sequential.json")
            folders = [self.folder / stage["folder"] for stage in record["stages"]]
            pictures.save(pictures.stages(record, solution.lam, mode.tolerance), figures, "stages")
        logs = [folder / "logs.jsonl" for folder in folders if (folder / "logs.jsonl").exists()]
        if logs:  # none where the base policy keeps the palette already
            pictures.save(pictures.trajectories(logs, solution.targets), figures, "trajectories")

    def _summary(self) -> dict[str, Any]:
        from mapft.align.refinement import REFINEMENTS, read_history
        from mapft.align.sequential import STAGES
        from mapft.evaluation.realized import summarize

        solution, adapter = self.solve(), self.train()
        record = read_json(self.folder / "solution.json")
        refinements = read_history(self.folder / REFINEMENTS)
        lam = refinements[-1]["lam"] if refinements else solution.lam
        sequential: dict[str, Any] = {"stages": [], "end": ""}
        if isinstance(self.config.mode, SequentialMode):
            sequential = read_json(self.folder / STAGES)
            lam = dict.fromkeys(solution.lam, 0.0) | {stage["value"]: stage["lam"] for stage in sequential["stages"]}
        base = self._evaluate_policy("base", None)
        tuned = self._evaluate_policy("tuned", adapter)
        return {
            **summarize(base, tuned, solution, record["sd"], self.config.evaluation, self.config.seed),
            "lam": lam,
            "stages": sequential["stages"],
            "end": sequential["end"],
            "adjusted": record["adjusted"],
            "adapter": str(adapter),
        }

    def _evaluate_policy(self, name: str, adapter: Path | None) -> pd.DataFrame:
        """Fresh responses to the held-out prompts with their scores -> evaluation_{name}.parquet."""
        per_prompt = self.config.evaluation.samples_per_prompt
        policy = "base" if adapter is None else _file_state(str(adapter / "adapter_model.safetensors"))
        which = {"policy": policy, "prompts": self.config.evaluation.prompts, "samples_per_prompt": per_prompt}
        depends = self._scoring_depends() | which
        table = stored(self.root / "store", "evaluation", depends, lambda: self._draw_held_out(name, adapter))
        path = self.folder / f"evaluation_{name}.parquet"
        write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))
        return table

    def _draw_held_out(self, name: str, adapter: Path | None) -> pd.DataFrame:
        from mapft.sampling.generate import draw, tokenize
        from mapft.sampling.models import load_policy, with_adapter

        config = self.config
        policy, tokenizer = load_policy(config.model)
        with self.progress() as progress:
            samples = draw(
                policy if adapter is None else with_adapter(policy, adapter),
                tokenizer,
                tokenize(self.prompts[2], tokenizer),
                config.sampling,
                config.evaluation.samples_per_prompt,
                derive_seed(config.seed, "evaluation", name),
                lambda done, total: progress(f"sampling the {name} policy", done, total),
                measure_kl=adapter is not None,
            )
        del policy
        scores = self._score(samples, f"scoring the {name} policy").drop(columns="prompt_id")
        return pd.concat([samples, scores], axis=1)


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
_NOT_TRAINED = ("tracking", "output", "run_dir", "evaluation")


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


def _file_state(path: str) -> list[list[Any]]:
    """Name, size and time of the files behind a local path; empty for a Hub id, which its revision describes."""
    local = Path(resolve(path)).expanduser()
    files = sorted(local.iterdir()) if local.is_dir() else [local] if local.is_file() else []
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file() and f.name != "README.md"]


def execute(config: Config, stage: str, as_json: bool = False) -> None:
    """Run the job up to and including `stage`; what is already there is kept."""
    warnings.filterwarnings(
        "ignore", "`is_gradient_checkpointing", FutureWarning
    )  # transformers about peft's and TRL's use
    run = Run(config)
    run.open()
    run.console.quiet = run.console.quiet or as_json
    run.console.print(f"Run folder: {run.folder}", soft_wrap=True)
    if config.model.adapter:
        run.console.print(
            f"The base policy is {config.model.path} with the adapter {config.model.adapter}.", soft_wrap=True
        )
    if not run.main:
        if stage in ("train", "evaluate"):
            run.join_training()
    elif stage == "evaluate":
        from mapft.evaluation.report import print_closing

        print_closing(run.evaluate(), run.console)
    else:
        run.show(getattr(run, stage)(), as_json)
