"""Training logs: always logs.jsonl in the run folder, and the levels beside the progress bar."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mapft.sampling.store import write_text

QUIET = 15.0  # seconds between two lines of the bar in a log file


class JsonLines(TrainerCallback):
    """Appends every log of the trainer as one JSON line, with the palette's targets beside the realized levels."""

    def __init__(self, path: Path, targets: Mapping[str, float]) -> None:
        self.path = path
        self.targets = {f"map/target/{name}": target for name, target in targets.items()}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop what a killed run logged after the checkpoint that this one starts from."""
        if state.is_world_process_zero and self.path.exists():
            lines = self.path.read_text("utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.global_step]
            write_text(self.path, "".join(kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """One line: step, then every metric (see mapft.glossary)."""
        if state.is_world_process_zero and logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs, **self.targets}) + "\n")


class LevelBar(ProgressCallback):
    """The progress bar of training, with every value's gap to its target in sd and the KL to the base in nats."""

    def __init__(self, targets: Mapping[str, float], sd: Mapping[str, float]) -> None:
        super().__init__()
        self.targets, self.sd = targets, sd
        self.live = sys.stderr.isatty()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A line now and then where there is no terminal to redraw one in."""
        super().on_train_begin(args, state, control)
        if self.training_bar is not None and not self.live:
            self.training_bar.mininterval = QUIET

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """One short line in the bar instead of every metric on the screen."""
        if self.training_bar is not None and logs and "objective/kl" in logs:
            gaps = {
                name: f"{(logs[f'map/scores/{name}'] - target) / self.sd[name]:+.2f}sd"
                for name, target in self.targets.items()
                if self.sd[name] > 0
            }
            self.training_bar.set_postfix(gaps | {"KL": f"{logs['objective/kl']:.2f}"}, refresh=self.live)
