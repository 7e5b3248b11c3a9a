"""One value after the other, one reward model in memory: exact coordinate ascent on the dual, played by the policy.

    delta_i = argmax_{delta >= -lam_i}  delta*c_i - log E_{current policy} exp(delta*r_i)
    lam_i  <- lam_i + delta_i;    PPO with reward delta_i*r_i against the current policy, which then has lam

A stage is one visit to one value. Its multiplier is solved on fresh samples of the current policy, scored by that
value's model alone, and refined on the stage's own rollouts. delta_i may be negative, down to -lam_i (Hildreth's
correction): without it the cycle stops at a policy that pays for levels beyond the palette. The reference of a stage
is the policy of the stage before, a frozen copy of its adapter on the same base; against p0 only the last value would
survive. Source: method section 8; the published theorem 5 lacks the correction.

Legend: N samples.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from mapft.align.fit import ADAPTER, Aim, fit
from mapft.config import Config, Residency, SequentialMode
from mapft.forward import give_back_memory
from mapft.palette import Palette, RewardMatrix, refine
from mapft.rewards import Score
from mapft.rewards.loader import RewardModels
from mapft.rewards.scoring import score_texts
from mapft.sampling.generate import draw, tokenize
from mapft.sampling.models import load_policy
from mapft.sampling.prompts import Prompt
from mapft.sampling.store import TEMPORARY, read_json, write_atomically, write_json
from mapft.seeding import derive_seed

STAGES = "sequential.json"  # in the run folder: what every stage did, and why there are no more
DECISION = "decision.json"  # in a stage's folder: what its samples ask for

Progress = Callable[[], AbstractContextManager[Callable[[str, int, int], None]]]


@dataclass(frozen=True)
class Stage:
    """One visit. Multipliers in nats per raw unit; gap = (level - c) / sd before the stage.

    violation_sd = |min(lam_before * sd, gap)|: 0 where the value is kept at least cost; noise_sd is the standard error
    of the samples' level. asked = lam_before + delta is what the samples ask for, with aim and ess as in
    palette.refine; lam is what training ended with (lam_before in a skipped stage). kept: the violation is within
    tolerance or noise. folder is relative to the run's.
    """

    value: str
    folder: str
    gap_sd: float
    violation_sd: float
    noise_sd: float
    lam_before: float
    asked: float
    aim: float
    ess: float
    kept: bool
    skipped: bool
    lam: float
    seconds: float


@dataclass(frozen=True)
class Sequential:
    """A sequential training: what it needs, and what a stage does. sd: of the base scores.

    A stage trains at trainer.learning_rate * min(1, |delta| * sd): what a small increment would gain at the full rate
    is less than what Adam's noise costs. In the tabular world of tests/align/test_sequential.py, three rounds of 16384
    responses at 3e-3 ended .053 nats from p_lam, and .06 at the full rate.
    """

    config: Config
    scores: Mapping[str, Score]
    targets: Mapping[str, float]
    sd: Mapping[str, float]
    prompts: list[Prompt]
    run: Path
    progress: Progress

    def train(self) -> dict[str, float]:
        """Visit the values in turn until the palette is kept; the last stage's adapter is left in the run folder, and
        the multipliers that the policy then has are returned.

        Every stage leaves a folder in stages/, and sequential.json tells what each did; a killed run goes on at the
        stage and step where it was.
        """
        mode = self.mode
        # A value whose base scores are constant keeps its target, or there would be no solution; nothing can move it.
        order = [name for name in mode.order or self.targets if self.sd[name] > 0]
        models = RewardModels({name: self.scores[name] for name in order}, Residency.resident, most=1)
        stages = read_stages(self.run)
        while not ended(stages, order, mode):
            stages.append(self._visit(order[len(stages) % len(order)], stages, models))
            models.release()
            give_back_memory()
            if PartialState().is_main_process:
                record = {"order": order, "stages": [asdict(stage) for stage in stages]}
                write_json(self.run / STAGES, record | {"end": ended(stages, order, mode)})
        trained = [stage for stage in stages if not stage.skipped]
        if not trained:
            none = dict.fromkeys(order[:1], 0.0)
            fit(self.config, models, Aim(none, none, self.targets, self.sd), self.prompts, self.run)
        elif PartialState().is_main_process and not (self.run / ADAPTER).exists():
            temporary = self.run / f".{ADAPTER}{TEMPORARY}"
            shutil.copytree(self.run / trained[-1].folder / ADAPTER, temporary, dirs_exist_ok=True)
            temporary.rename(self.run / ADAPTER)
        return dict.fromkeys(self.scores, 0.0) | {stage.value: stage.lam for stage in stages}

    @property
    def mode(self) -> SequentialMode:
        """Its settings."""
        assert isinstance(self.config.mode, SequentialMode)
        return self.config.mode

    def _visit(self, name: str, stages: list[Stage], models: RewardModels) -> Stage:
        begin, number = time.monotonic(), len(stages) + 1
        before = next((stage.lam for stage in reversed(stages) if stage.value == name), 0.0)
        policy = next((str(self.run / stage.folder / ADAPTER) for stage in reversed(stages) if not stage.skipped), None)
        folder = self.run / "stages" / f"{number:03d}-{name}"
        config = replace(
            self.config,
            seed=derive_seed(self.config.seed, "stage", number) % 2**31,
            model=replace(self.config.model, adapter=policy or self.config.model.adapter),
            trainer=replace(self.config.trainer, total_episodes=self.mode.stage_episodes),
        )
        target, sd, path = self.targets[name], self.sd[name], folder / DECISION
        if PartialState().is_main_process and not path.exists():
            with self.progress() as update:
                samples = self._sample(config, name, folder, partial(update, f"stage {number}: {name}"))
            write_json(path, decide(samples, target, sd, before))
        while not path.exists():  # another process is sampling
            time.sleep(0.2)
        decision = read_json(path)
        lam, step = before, abs(decision["asked"] - before) * sd
        kept = decision["violation_sd"] <= max(self.mode.tolerance, decision["noise_sd"])
        skipped = kept or step == 0 or step < self.mode.smallest_step
        if not skipped:
            aim = Aim({name: decision["asked"]}, {name: before}, {name: target}, {name: sd})
            rate = config.trainer.learning_rate * min(1.0, step)
            config = replace(config, trainer=replace(config.trainer, learning_rate=rate))
            lam = fit(config, models, aim, self.prompts, folder, self.run)[name]
        where, seconds = str(folder.relative_to(self.run)), time.monotonic() - begin
        return Stage(name, where, lam_before=before, kept=kept, skipped=skipped, lam=lam, seconds=seconds, **decision)

    def _sample(self, config: Config, name: str, folder: Path, on_batch: Callable[[int, int], None]) -> RewardMatrix:
        """Fresh samples of the current policy on the pilot's prompts, one value's scores (N, 1) -> samples.parquet.

        The scores are kept chunk by chunk as they come, and are not asked for again by a run that was killed.
        """
        policy, tokenizer = load_policy(config.model)
        pilot, how = tokenize(self.prompts[: config.data.pilot_prompts], tokenizer), config.sampling
        seed = derive_seed(config.seed, "samples")
        samples = draw(policy, tokenizer, pilot, how, how.samples_per_prompt, seed, on_batch)
        del policy
        give_back_memory()
        texts, ids = (samples["prompt"].tolist(), samples["response"].tolist()), samples["prompt_id"].tolist()
        matrix = score_texts({name: self.scores[name]}, *texts, ids, keep={name: folder / "scores"})
        samples[name] = matrix.column(name)
        write_atomically(folder / "samples.parquet", lambda temporary: samples.to_parquet(temporary, index=False))
        return matrix


def ended(stages: list[Stage], order: list[str], mode: SequentialMode) -> str:
    """Why there are no more stages, or nothing. A round of skipped stages speaks of one policy: none moved it."""
    last = stages[-len(order) :]
    if len(last) == len(order) and all(stage.skipped for stage in last):
        beyond = ", ".join(stage.value for stage in last if not stage.kept)
        if beyond:
            return f"No stage would change a multiplier by {mode.smallest_step:g} per sd, though it misses {beyond}."
        return f"Every value is kept within {mode.tolerance:g} sd, or within the standard error of the samples."
    return f"All rounds ({mode.rounds}) are spent." if len(stages) >= mode.rounds * len(order) else ""


def read_stages(run: Path) -> list[Stage]:
    """All stages of a run so far, oldest first."""
    path = run / STAGES
    return [Stage(**stage) for stage in read_json(path)["stages"]] if path.exists() else []


def decide(samples: RewardMatrix, target: float, sd: float, before: float) -> dict[str, Any]:
    """What samples (N, 1) of the policy that has `before` of this value ask for; a slack value gets exactly 0."""
    [name] = samples.values
    gap = (samples.base[name] - target) / sd
    found = refine(samples, Palette({name: target}), {name: before})
    return {
        "gap_sd": gap,
        "violation_sd": abs(min(before * sd, gap)),
        "noise_sd": samples.sd[name] / sd / len(samples) ** 0.5,
        "asked": found.lam[name],
        "aim": found.aim,
        "ess": found.ess,
    }
