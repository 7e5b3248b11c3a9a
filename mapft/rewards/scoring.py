"""Texts -> score matrix, one score in memory at a time.

Shapes: N responses, V values.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mapft.errors import UserError
from mapft.palette import RewardMatrix
from mapft.rewards import Score

CHUNK = 1024


def score_texts(
    scores: dict[str, Score],
    prompts: Sequence[str],
    responses: Sequence[str],
    prompt_ids: Sequence[int],
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    keep: Path | None = None,
) -> RewardMatrix:
    """Raw scores of every response under every value, (N, V); each model is loaded, used and dropped in turn.

    keep: a folder for the scores of every chunk as they come, so that a scoring that was stopped goes on from there.
    """
    columns = []
    for name, score in scores.items():
        scorer = None
        parts = []
        for start in range(0, len(responses), CHUNK):
            rows = slice(start, start + CHUNK)
            kept = keep / f"{name}-{start}.npy" if keep else None
            if kept is None or not kept.exists():
                scorer = scorer or score.load(name)
                part = finite(name, scorer.score(prompts[rows], responses[rows]), start)
                if kept is not None:
                    _write(kept, part)
            else:
                part = np.load(kept, allow_pickle=False)
            parts.append(part)
            progress(name, min(start + CHUNK, len(responses)), len(responses))
        columns.append(np.concatenate(parts))
        del scorer
    return RewardMatrix(np.stack(columns, axis=1), list(scores), prompt_ids)


def _write(path: Path, scores_N: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    np.save(temporary, scores_N)
    temporary.replace(path)


def finite(name: str, scores_N: np.ndarray, first_row: int = 0) -> np.ndarray:
    """The scores, refusing the first that is not a finite number."""
    bad = np.flatnonzero(~np.isfinite(scores_N))
    if len(bad):
        raise UserError(
            f"The score {name!r} is {scores_N[bad[0]]} for response {first_row + bad[0]}; a missing score is never "
            "taken as 0: make it a finite number for every response."
        )
    return scores_N
