"""A run: its settings, its folder, its lock, and what its stages have written.

Stages (one file each in this package) are functions of a `Run`; nothing here computes.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from mapft.config import Config, ModeConfig, identity
from mapft.config.config import RESULT_GROUPS
from mapft.config.identity import fingerprint, plain
from mapft.config.run_folder import RunFolder
from mapft.palette import DualSolution, ScoreMatrix
from mapft.pipeline import artifacts
from mapft.pipeline.cache import Cache
from mapft.playground.paths import existing_or_hub, file_state
from mapft.rewards import Score, parse, score_identity
from mapft.sampling.split import PromptSplit
from mapft.tracking.trackers import check_trackers
from mapft.utils.errors import UserError
from mapft.utils.files import cannot_write, remove_leftovers
from mapft.utils.locks import LockHeld, SharedLock
from mapft.utils.redact import redact
from mapft.utils.terminal import Update, make_console, progress

PACKAGES = ("mapft", "torch", "transformers", "trl", "peft", "accelerate", "numpy", "scipy")
COMPARED = ("torch", "transformers", "trl")  # whose other version changes results
POLL_SECONDS = 0.2


class Run:
    """One run. Under `accelerate launch` every process holds one; only the main process (rank 0) samples, scores,
    solves, evaluates, writes and prints, while the others wait for its files and take part in training.
    """

    def __init__(self, config: Config, command: str = "", *, quiet: bool = False) -> None:
        self.config, self.command = config, command
        self.is_main = int(os.environ.get("RANK", "0")) == 0
        self.console = make_console(quiet=quiet or not self.is_main)
        self.scores: dict[str, Score] = parse(config.rewards)
        self.score_identities = {name: score_identity(score) for name, score in self.scores.items()}
        self.base_files = _states([config.model.path, config.model.adapter])
        self.base_files |= {config.data.path: file_state(config.data.path, deep=True)}
        self.score_files = {name: _states(score.files()) for name, score in self.scores.items()}
        self.identity: dict[str, Any] = {group: identity(getattr(config, group)) for group in RESULT_GROUPS}
        self.identity |= {"rewards": self.score_identities, "seed": config.seed}
        self.identity["files"] = self.base_files | {
            path: state for files in self.score_files.values() for path, state in files.items()
        }
        if files := config.mode.files():
            self.identity["mode"]["files"] = _states(files)
        self.fingerprint = fingerprint(self.identity)
        check_trackers(config.tracking.names())
        for name, policy in config.evaluation.policies.items():
            if policy.adapter:
                existing_or_hub(policy.adapter, f"evaluation.policies.{name}.adapter")
        if config.decoding.adapter:
            existing_or_hub(config.decoding.adapter, "decoding.adapter")
        output = Path(config.output)
        name = f"{config.name}-{config.palette.name}-{self.fingerprint}"
        self.folder = RunFolder(Path(config.run_dir) if config.run_dir else output / name)
        self.cache = Cache(output / "cache")
        if output.resolve().is_relative_to(self.folder.path.resolve()):
            raise UserError(
                f"run_dir={config.run_dir} contains output={config.output}; choose a folder inside it or beside it."
            )

    # ------------------------------------------------------------------ folder and lock

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Inside, this process alone works on the run folder, which exists and records what the run is.

        UserError where another process holds the lock, the folder belongs to another run, or cannot be written.
        """
        if not self.is_main:
            yield
            return
        try:
            lock = SharedLock(self.folder.lock).acquire(wait=False)
        except LockHeld as error:
            raise UserError(
                f"{self.folder.path} is locked by {error}; wait for it, or choose another run_dir=."
            ) from error
        except OSError as error:
            raise cannot_write(self.folder.path, error) from error
        try:
            remove_leftovers(self.folder.path)
            self._record()
            yield
        finally:
            lock.release()

    def _record(self) -> None:
        """Write config.json, or compare the one that is there with this run."""
        versions = {package: version(package) for package in PACKAGES}
        if not self.folder.config.exists():
            settings = redact(dataclasses.asdict(self.config))
            record = artifacts.RunRecord(self.fingerprint, redact(self.identity), self.command, versions, settings)
            artifacts.write_run_record(self.folder, record)
            return
        record = artifacts.read_run_record(self.folder)
        if record.fingerprint != self.fingerprint:
            raise UserError(
                f"{self.folder.path} belongs to a run with other settings (see its config.json); choose another "
                "run_dir=."
            )
        changed = [
            f"{name} {record.versions.get(name)} -> {versions[name]}"
            for name in COMPARED
            if record.versions.get(name) != versions[name]
        ]
        if changed:
            self.console.print(
                f"This run began with other versions ({', '.join(changed)}); what is computed now can differ from "
                "an uninterrupted run.",
                soft_wrap=True,
            )

    def variant(self, mode: ModeConfig) -> "Run":
        """The same run in another mode, in its own folder, with the same samples, scores and solution."""
        config = dataclasses.replace(self.config, mode=mode, run_dir=None)
        return Run(config, self.command, quiet=self.console.quiet)

    def wait_for(self, path: Path) -> None:
        """Processes other than the main one wait until it has written the file."""
        while not self.is_main and not path.exists():
            time.sleep(POLL_SECONDS)

    def tell(self, sentence: str) -> None:
        """Print a sentence; on the main process only, as all of the console."""
        self.console.print(sentence, soft_wrap=True)

    def progress(self) -> AbstractContextManager[Update]:
        """A context manager whose target is called with (task, done, total)."""
        return progress(self.console)

    # ------------------------------------------------------------------ inputs, and what stages have written

    @cached_property
    def prompts(self) -> PromptSplit:
        """Training, pilot and held-out prompts."""
        return artifacts.read_prompts(self.folder, self.config)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Base samples of the pilot prompts."""
        return artifacts.read_samples(self.folder)

    @cached_property
    def matrix(self) -> ScoreMatrix:
        """Scores of the base samples."""
        return artifacts.read_scores(self.folder, list(self.scores))

    @cached_property
    def solution_record(self) -> artifacts.SolutionRecord:
        """The dual solution, and the palette that was requested."""
        return artifacts.read_solution(self.folder)

    @property
    def solution(self) -> DualSolution:
        """The dual solution of the palette that is trained."""
        return self.solution_record.solution

    # ------------------------------------------------------------------ what cached results depend on

    @property
    def sampling_identity(self) -> dict[str, Any]:
        """Everything that base samples depend on."""
        groups = ("model", "data", "sampling", "engine", "seed")
        return {name: self.identity[name] for name in groups} | {"files": self.base_files} | self._columns

    @property
    def scoring_identity(self) -> dict[str, Any]:
        """Everything that samples and their scores depend on."""
        names = ("model", "data", "sampling", "engine", "seed", "rewards", "files")
        return {name: self.identity[name] for name in names} | self._columns

    @property
    def _columns(self) -> dict[str, list[str]]:
        """The columns that scores read: rows that differ in them alone are different rows."""
        return {"columns": self.prompts.columns}


def _states(paths: list[Any]) -> dict[str, Any]:
    return {path: file_state(path) for path in paths if path}


def plain_settings(settings: Any) -> dict[str, Any]:
    """All settings of a group as JSON has them."""
    return json.loads(json.dumps(dataclasses.asdict(settings), default=plain))
