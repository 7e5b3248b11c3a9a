"""Texts -> score matrix, one score in memory at a time.

Shapes: N responses, V values.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from mapft.errors import UserError
from mapft.palette import RewardMatrix
from mapft.rewards import Score
from mapft.rewards.remote import RemoteScore
from mapft.sampling.store import locked, read_array, remove_leftovers, write_array

CHUNK = 1024


def score_texts(
    scores: Mapping[str, Score],
    prompts: Sequence[str],
    responses: Sequence[str],
    prompt_ids: Sequence[int],
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    keep: Mapping[str, Path] | None = None,
) -> RewardMatrix:
    """Raw scores of every response under every value, (N, V); each model is loaded, used and dropped in turn.

    keep: by value, the folder that keeps its scores of these texts. They are there chunk by chunk as they come, so
    that a scoring that was stopped goes on from there; one that was finished is read.
    """
    columns = []
    for name, score in scores.items():
        with locked(keep[name]) if keep else nullcontext():
            if keep:
                remove_leftovers(keep[name])
            columns.append(_column(name, score, prompts, responses, progress, keep[name] if keep else None))
    return RewardMatrix(np.stack(columns, axis=1), list(scores), prompt_ids)


def _column(
    name: str,
    score: Score,
    prompts: Sequence[str],
    responses: Sequence[str],
    progress: Callable[[str, int, int], None],
    keep: Path | None,
) -> np.ndarray:
    """(N,) of one value."""
    whole = keep / "scores.npy" if keep else None
    if whole and whole.exists():
        return read_array(whole)
    scorer, parts, chunks = None, [], []
    size = score.batch if isinstance(score, RemoteScore) else CHUNK  # what was asked for over a network is kept at once
    for start in range(0, len(responses), size):
        end = min(start + size, len(responses))
        chunk = keep / f"{start}-{end}.npy" if keep else None
        if chunk and chunk.exists():
            parts.append(read_array(chunk))
        else:
            scorer = scorer or score.load(name)
            parts.append(finite(name, scorer.score(prompts[start:end], responses[start:end]), start))
            if chunk:
                write_array(chunk, parts[-1])
        chunks.append(chunk)
        progress(name, end, len(responses))
    scores_N = np.concatenate(parts)
    if whole:
        write_array(whole, scores_N)
        for chunk in filter(None, chunks):
            chunk.unlink(missing_ok=True)
    return scores_N


def finite(name: str, scores_N: np.ndarray, first_row: int = 0) -> np.ndarray:
    """The scores, refusing the first that is not a finite number."""
    bad = np.flatnonzero(~np.isfinite(scores_N))
    if len(bad):
        raise UserError(
            f"The score {name!r} is {scores_N[bad[0]]} for response {first_row + bad[0]}; a missing score is never "
            "taken as 0: make it a finite number for every response."
        )
    return scores_N
