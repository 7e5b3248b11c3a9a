"""One value after the other with one reward model in memory: exact coordinate ascent on the dual.

    delta_i = argmax_{delta >= -lam_i}  delta*c_i - log E_{current policy} exp(delta*r_i)
    lam_i  <- lam_i + delta_i;    PPO with reward delta_i*r_i and the current policy as reference gives p_lam

A visit trains one value. Its multiplier is solved on new samples of the current policy, scored by that value's model
alone, and refined on the visit's own rollouts. delta_i may be negative, down to -lam_i (Hildreth's correction); with
delta_i >= 0 the cycle would stop at levels above the palette, at a higher KL. The reference policy of a visit is the
policy of the previous one: a frozen copy of its adapter on the same base. With p0 as reference, only the last value
would be trained. Source: theorem 5 of the paper, which lacks the correction (mapft/palette/README.md).

Legend: N samples.
"""

import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar

from mapft.config import Config, ModeConfig, Residency
from mapft.config.fields import setting
from mapft.config.run_folder import RunFolder
from mapft.palette import Palette, ScoreMatrix, increment
from mapft.utils.errors import UserError
from mapft.utils.files import TEMPORARY, parsing, read_json, read_table, write_atomically, write_json
from mapft.utils.seeds import derive_seed


@dataclass(frozen=True)
class Visit:
    """One visit to one value. Multipliers in nats per raw unit; gap = (level - c) / sd before the visit.

    violation_sd = |min(lam_before * sd, gap)|: 0 where the target is met at least cost; noise_sd is the standard error
    of the samples' level. requested = lam_before + delta is the multiplier solved on the samples, with share and ess
    as in palette.increment; lam is the multiplier after training (lam_before in a skipped visit). met: the violation is
    at most tolerance or noise_sd. folder: relative to the run folder. seconds: wall time.
    """

    value: str
    folder: str
    gap_sd: float
    violation_sd: float
    noise_sd: float
    lam_before: float
    requested: float
    share: float
    ess: float
    met: bool
    skipped: bool
    lam: float
    seconds: float


@dataclass(kw_only=True)
class Sequential(ModeConfig):
    """One value after the other, with the previous visit's policy as reference and one reward model in memory."""

    aims_at_palette: ClassVar[bool] = True
    order: list[str] | None = setting(None, "Order of the values with a target; null: the order of the palette.")
    rounds: int = setting(4, "Visits to every value, at most.", at_least=1)
    tolerance: float = setting(
        0.03,
        "A value whose target is met within this, or within the standard error of the samples, is skipped.",
        unit="sd",
        at_least=0,
    )
    smallest_step: float = setting(0.02, "Smallest change of lam_i that is trained.", unit="1/sd", at_least=0)
    visit_episodes: int = setting(
        8192,
        "Responses of one visit; its learning rate is proportional to lambda's change, up to trainer.learning_rate.",
        at_least=1,
    )

    def check(self, config: Any, targets: Collection[str]) -> None:
        """UserError unless the order names every value with a target once."""
        super().check(config, targets)
        if self.order is not None and sorted(self.order) != sorted(targets):
            raise UserError(
                f"mode.order={','.join(self.order)} is invalid; it must name each of {', '.join(sorted(targets))} once."
            )

    @property
    def residency(self) -> Residency:
        """One reward model in memory."""
        return Residency.one_at_a_time

    def scored_responses(self, total_episodes: int, pilot: int, folder: RunFolder) -> int:
        """Per visit the pilot's number of samples, and visit_episodes if it was not skipped."""
        return sum(pilot + (0 if visit.skipped else self.visit_episodes) for visit in read_visits(folder))

    def train(self, inputs: Any) -> dict[str, float]:
        """adapter/ of the last visit, sequential.json and visits/ in the run folder."""
        return Cycle(self, inputs).train()


class Cycle:
    """The visits of one sequential training.

    The learning rate of a visit is trainer.learning_rate * min(1, |delta| * sd): at the full rate, the noise of Adam's
    steps would move the levels by more than a small increment.
    """

    def __init__(self, mode: Sequential, inputs: Any) -> None:
        self.mode, self.inputs, self.config, self.folder = mode, inputs, inputs.config, inputs.folder
        self.targets: Mapping[str, float] = inputs.solution.targets
        self.base: Mapping[str, float] = inputs.matrix.base
        self.sd: Mapping[str, float] = inputs.matrix.sd

    def train(self) -> dict[str, float]:
        """Visit the values in turn until the palette is met; returns the multipliers of the final policy.

        An interrupted run continues at its last visit and checkpoint.
        """
        from accelerate import PartialState

        from mapft.rewards.loader import RewardModels
        from mapft.training.fit import Objective, fit
        from mapft.utils.device import free_memory

        # No policy changes the level of a constant value; in a feasible palette it meets its target.
        order = [name for name in self.mode.order or self.targets if self.sd[name] > 0]
        models = RewardModels({name: self.inputs.scores[name] for name in order}, Residency.resident, max_loaded=1)
        visits = read_visits(self.folder)
        while not stop_reason(visits, order, self.mode):
            visits.append(self._visit(order[len(visits) % len(order)], visits, models))
            models.release()
            free_memory()
            if PartialState().is_main_process:
                record = {
                    "order": order,
                    "tolerance": self.mode.tolerance,
                    "visits": [asdict(visit) for visit in visits],
                }
                write_json(self.folder.sequential, record | {"end": stop_reason(visits, order, self.mode)})
        trained = [visit for visit in visits if not visit.skipped]
        if not trained:
            zero = dict.fromkeys(order[:1], 0.0)
            objective = Objective(zero, zero, self.targets, self.base, self.sd)
            fit(self.config, models, objective, self.inputs.prompts.training, [], self.folder)
        elif PartialState().is_main_process and not self.folder.adapter.exists():
            temporary = self.folder.path / f".{self.folder.adapter.name}{TEMPORARY}"
            last = RunFolder(self.folder.path / trained[-1].folder)
            shutil.copytree(last.adapter, temporary, dirs_exist_ok=True)
            temporary.rename(self.folder.adapter)
        return dict.fromkeys(self.inputs.scores, 0.0) | {visit.value: visit.lam for visit in visits}

    def _visit(self, name: str, visits: list[Visit], models: Any) -> Visit:
        from mapft.training.fit import Objective, fit, pilot_groups

        begin, number = time.monotonic(), len(visits) + 1
        before = next((visit.lam for visit in reversed(visits) if visit.value == name), 0.0)
        folder, config = self.folder.visit(number, name), self._config(number, visits)
        decision = self._decision(config, number, name, folder, before)
        lam, step = before, abs(decision["requested"] - before) * self.sd[name]
        met = decision["violation_sd"] <= max(self.mode.tolerance, decision["noise_sd"])
        skipped = met or step == 0 or step < self.mode.smallest_step
        if not skipped:
            targets = {name: self.targets[name]}
            objective = Objective({name: decision["requested"]}, {name: before}, targets, self.base, self.sd)
            trainer, share = config.trainer, min(1.0, step)
            warm_start = trainer.warm_start_learning_rate and share * trainer.warm_start_learning_rate
            rates = {"learning_rate": share * trainer.learning_rate, "warm_start_learning_rate": warm_start}
            config = replace(config, trainer=replace(trainer, **rates))
            prompts = self.inputs.prompts.training
            stored = pilot_groups(read_table(folder.samples), [name])
            lam = fit(config, models, objective, prompts, stored, folder, self.folder.path.name)[name]
        relative, seconds = str(folder.path.relative_to(self.folder.path)), time.monotonic() - begin
        return Visit(name, relative, lam_before=before, met=met, skipped=skipped, lam=lam, seconds=seconds, **decision)

    def _config(self, number: int, visits: list[Visit]) -> Config:
        """The run's settings for one visit: its own seed, the last trained adapter as p0, visit_episodes."""
        trained = [visit.folder for visit in visits if not visit.skipped]
        adapter = str(RunFolder(self.folder.path / trained[-1]).adapter) if trained else self.config.model.adapter
        return replace(
            self.config,
            seed=derive_seed(self.config.seed, "stage", number) % 2**31,
            model=replace(self.config.model, adapter=adapter),
            refine=replace(self.config.refine, compensate=True),  # a visit ends at its target; the next ones correct it
            trainer=replace(self.config.trainer, total_episodes=self.mode.visit_episodes),
        )

    def _decision(self, config: Config, number: int, name: str, folder: RunFolder, before: float) -> dict[str, Any]:
        """decision.json, which the main process writes from new samples while the others wait for it."""
        from accelerate import PartialState

        if PartialState().is_main_process and not folder.decision.exists():
            with self.inputs.progress() as update:
                samples = self._sample(config, name, folder, partial(update, f"visit {number}: {name}"))
            write_json(folder.decision, solve_increment(samples, self.targets[name], self.sd[name], before))
        while not folder.decision.exists():
            time.sleep(0.2)
        return read_json(folder.decision)

    def _sample(
        self, config: Config, name: str, folder: RunFolder, on_batch: Callable[[int, int], None]
    ) -> ScoreMatrix:
        """One value's scores (N, 1) of new samples of the current policy for the pilot prompts -> samples.parquet.

        Scores are written chunk by chunk, and an interrupted run does not repeat them.
        """
        from mapft.rewards.scoring import score_texts
        from mapft.sampling.engines import make_engine
        from mapft.sampling.models import load_policy
        from mapft.sampling.prompts import columns_of
        from mapft.sampling.responses import generate
        from mapft.sampling.tokens import token_rows
        from mapft.utils.device import free_memory

        policy, tokenizer = load_policy(config.model)
        pilot, sampling = token_rows(self.inputs.prompts.pilot), config.sampling
        seed = derive_seed(config.seed, "samples")
        engine = make_engine(config)
        samples = generate(
            policy, tokenizer, pilot, sampling, sampling.samples_per_prompt, seed, on_batch, engine=engine
        )
        del policy
        free_memory()
        texts, ids = (samples["prompt"].tolist(), samples["response"].tolist()), samples["prompt_id"].tolist()
        columns = columns_of([self.inputs.prompts.pilot[number] for number in ids])
        scores, folders = {name: self.inputs.scores[name]}, {name: folder.score_parts}
        matrix = score_texts(scores, *texts, ids, folders=folders, columns=columns)
        samples[name] = matrix.column(name)
        write_atomically(folder.samples, lambda temporary: samples.to_parquet(temporary, index=False))
        return matrix


def stop_reason(visits: list[Visit], order: list[str], mode: Sequential) -> str:
    """Why the cycle ends, or an empty text. It ends after a round of skipped visits, which all saw the same policy."""
    last = visits[-len(order) :]
    if len(last) == len(order) and all(visit.skipped for visit in last):
        missed = ", ".join(visit.value for visit in last if not visit.met)
        if missed:
            return f"No visit would change a multiplier by {mode.smallest_step:g} per sd or more; missed: {missed}."
        return f"Every target is met within {mode.tolerance:g} sd, or within the standard error of the samples."
    return f"All {mode.rounds} rounds are complete." if len(visits) >= mode.rounds * len(order) else ""


def read_visits(folder: RunFolder) -> list[Visit]:
    """All finished visits of a run, oldest first."""
    if not folder.sequential.exists():
        return []
    with parsing(folder.sequential):
        return [Visit(**visit) for visit in read_json(folder.sequential)["visits"]]


def solve_increment(samples: ScoreMatrix, target: float, sd: float, before: float) -> dict[str, Any]:
    """The multiplier solved on samples (N, 1) of the policy with multiplier `before`; 0 where the target is slack."""
    [name] = samples.values
    gap = (samples.base[name] - target) / sd
    step = increment(samples, Palette({name: target}), {name: before})
    return {
        "gap_sd": gap,
        "violation_sd": abs(min(before * sd, gap)),
        "noise_sd": samples.sd[name] / sd / len(samples) ** 0.5,
        "requested": step.lam[name],
        "share": step.share,
        "ess": step.ess,
    }
