"""A score that records its calls, for tests of several processes."""

import json
import os
import traceback
from pathlib import Path

from tests import worlds


def vowels_by_rank(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """worlds.vowels; appends {"rank", "training"} to the file $CALLS. training: whether PPO calls."""
    stack = {Path(frame.filename).name for frame in traceback.extract_stack()}
    call = {"rank": int(os.environ.get("RANK", "0")), "training": "reward.py" in stack}
    with Path(os.environ["CALLS"]).open("a") as file:
        file.write(json.dumps(call) + "\n")
    return worlds.vowels(prompts, completions)
