"""The name of every file in a run folder, and in the folder of one visit of sequential mode.

Files inside the folders of checkpoints, score parts and comparisons are named where they are written.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run folder; nothing is created or read here (see mapft/pipeline/artifacts.py).

    A visit of sequential mode has a folder of its own with the same names, below visits/.
    """

    path: Path

    # ------------------------------------------------------------------ the run

    @property
    def config(self) -> Path:
        """Settings, identity, command and package versions."""
        return self.path / "config.json"

    @property
    def lock(self) -> Path:
        """Held by the one process that works on the run."""
        return self.path / ".lock"

    @property
    def batches(self) -> Path:
        """How many responses the passes of the run have, chosen by the memory that was free."""
        return self.path / "batches.json"

    @property
    def speed(self) -> Path:
        """Seconds per response, of which the duration of the run is estimated."""
        return self.path / "speed.json"

    # ------------------------------------------------------------------ sample, score, solve

    @property
    def prompts(self) -> Path:
        """Training and held-out prompts as every stage uses them: held_out, prompt, token_ids, columns."""
        return self.path / "prompts.parquet"

    @property
    def samples(self) -> Path:
        """Base samples of the pilot prompts: prompt_id, prompt, response, tokens, finished."""
        return self.path / "samples.parquet"

    @property
    def scores(self) -> Path:
        """Raw scores of the samples: prompt_id and a column per value."""
        return self.path / "scores.parquet"

    @property
    def solution(self) -> Path:
        """The dual solution, and the palette before and after an adjustment."""
        return self.path / "solution.json"

    # ------------------------------------------------------------------ train

    @property
    def training(self) -> Path:
        """Written when training is complete: the mode and its final multipliers."""
        return self.path / "training.json"

    @property
    def adapter(self) -> Path:
        """The trained PEFT adapter."""
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the trainer."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """Training metrics, one JSON object per line (`mapft metrics`)."""
        return self.path / "logs.jsonl"

    @property
    def refinement(self) -> Path:
        """Every refinement of lambda during training."""
        return self.path / "refinement.json"

    @property
    def replay(self) -> Path:
        """Scored responses of pilot and training, with which other runs can begin (mode.replay_from)."""
        return self.path / "replay.pt"

    @property
    def wandb_ids(self) -> Path:
        """The W&B run of each job."""
        return self.path / "wandb.json"

    @property
    def tensorboard(self) -> Path:
        """Event files of TensorBoard."""
        return self.path / "tensorboard"

    # ------------------------------------------------------------------ sequential mode

    @property
    def sequential(self) -> Path:
        """Every visit of sequential mode, and why it ended."""
        return self.path / "sequential.json"

    def visit(self, number: int, value: str) -> "RunFolder":
        """Folder of one visit, counted from 1."""
        return RunFolder(self.path / "visits" / f"{number:03d}-{value}")

    @property
    def decision(self) -> Path:
        """In a visit's folder: the increment of the multiplier that was solved on its samples."""
        return self.path / "decision.json"

    @property
    def score_parts(self) -> Path:
        """In a visit's folder: scores, chunk by chunk."""
        return self.path / "scores"

    # ------------------------------------------------------------------ evaluate

    @property
    def evaluation(self) -> Path:
        """Realized levels with intervals."""
        return self.path / "evaluation.json"

    def responses(self, policy: str) -> Path:
        """Scored responses of one evaluated policy."""
        return self.path / f"evaluation_{policy}.parquet"

    @property
    def figures(self) -> Path:
        """Figures of the report, svg and png."""
        return self.path / "figures"

    def report(self, suffix: str) -> Path:
        """The report as html, md or csv."""
        return self.path / f"report.{suffix}"

    # ------------------------------------------------------------------ decode, compare, export

    def decoded(self, choose: str, candidates: int, key: str) -> Path:
        """Responses of `mapft decode`."""
        return self.path / f"decoded-{choose}-{candidates}-{key}.jsonl"

    @property
    def comparison(self) -> Path:
        """Folder of `mapft compare`."""
        return self.path / "comparison"

    @property
    def merged(self) -> Path:
        """The model with its adapter merged (`mapft export`)."""
        return self.path / "merged"
