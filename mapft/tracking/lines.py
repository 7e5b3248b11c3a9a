"""Training logs of every run: logs.jsonl in its folder, and the progress of training on the screen."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mapft.utils.files import read_json_lines, write_text
from mapft.utils.terminal import LogLines, make_console

BAR_FORMAT = "{n_fmt}/{total_fmt} {bar} {remaining} left{postfix}"


class JsonLines(TrainerCallback):
    """Appends every log of the trainer as one JSON line. extra_metrics: returns what every line holds besides."""

    def __init__(self, path: Path, extra_metrics: Callable[[], Mapping[str, float]] = dict) -> None:
        self.path, self.extra_metrics = path, extra_metrics

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remove the lines that a killed run logged after the checkpoint from which this training starts."""
        if state.is_world_process_zero and self.path.exists():
            earlier = [line for line in read_json_lines(self.path) if line["step"] <= state.global_step]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in earlier))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """One line: step, then every metric (see mapft.tracking.glossary)."""
        if state.is_world_process_zero and logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs, **self.extra_metrics()}) + "\n")


class LevelBar(ProgressCallback):
    """Progress of training on stderr: steps done, remaining time, each value's gap to its target, and the KL.

    The gap is (mean score of the rollout - target) / sd; the KL is to the reference policy, in nats. A bar on a
    terminal, and lines of plain text in a log file.
    """

    def __init__(self, targets: Mapping[str, float], sd: Mapping[str, float]) -> None:
        super().__init__()
        self.training_bar: Any = None
        self.targets = {name: target for name, target in targets.items() if sd[name] > 0}
        self.sd = sd
        self.note = ""
        self.lines = None if sys.stderr.isatty() else LogLines(make_console(stderr=True))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin at the step of the checkpoint."""
        if self.lines is None:
            super().on_train_begin(args, state, control)
            if self.training_bar is not None:
                self.training_bar.bar_format = BAR_FORMAT

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """One step more; lines tell the time by the steps after the first, which also prepares the stored responses."""
        if self.lines is None:
            super().on_step_end(args, state, control)
        elif state.is_world_process_zero:
            self.lines("training", state.global_step, state.max_steps, self.note)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Gaps and KL of the last rollout, in place of all metrics."""
        if not state.is_world_process_zero or not logs or "objective/kl" not in logs:
            return
        gaps = [f"{name} {(logs[f'map/scores/{name}'] - c) / self.sd[name]:+.2f}" for name, c in self.targets.items()]
        self.note = f"{', '.join(gaps)} sd; KL {logs['objective/kl']:.2f}" if gaps else f"KL {logs['objective/kl']:.2f}"
        if self.training_bar is not None:
            self.training_bar.set_postfix_str(self.note)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """End the line of the bar, also where training failed, so that the next message has its own."""
        if self.training_bar is not None:
            self.training_bar.close()
            self.training_bar = None
