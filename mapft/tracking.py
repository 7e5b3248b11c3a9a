"""Training logs: always logs.jsonl in the run folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class JsonLines(TrainerCallback):
    """Appends every log of the trainer as one JSON line, with the palette's targets beside the realized levels."""

    def __init__(self, path: Path, targets: Mapping[str, float]) -> None:
        self.path = path
        self.targets = {f"map/target/{name}": target for name, target in targets.items()}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """One line: step, then every metric (see the glossary in the README)."""
        if state.is_world_process_zero and logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs, **self.targets}) + "\n")
