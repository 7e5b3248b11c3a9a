"""Texts -> score matrix, with one score in memory at a time.

Legend: N responses, V values.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from mapft.palette import ScoreMatrix
from mapft.rewards import Score
from mapft.rewards.score import NO_COLUMNS, Columns, own_columns
from mapft.utils.errors import UserError
from mapft.utils.files import locked, read_array, remove_leftovers, write_array


def score_texts(
    scores: Mapping[str, Score],
    prompts: Sequence[str],
    responses: Sequence[str],
    prompt_ids: Sequence[int],
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    folders: Mapping[str, Path] | None = None,
    columns: Columns = NO_COLUMNS,
) -> ScoreMatrix:
    """Raw scores of every response under every value, (N, V); each model is loaded, used and released in turn.

    columns: of the data, with one value per response; every score reads its own. folders: by value, where its scores of
    these texts are stored. Scores are written in chunks, so interrupted scoring continues after its last chunk, and
    complete scores are read.
    """
    scores_V = []
    for name, score in scores.items():
        with locked(folders[name]) if folders else nullcontext():
            if folders:
                remove_leftovers(folders[name])
            own, folder = own_columns(name, score, columns), folders[name] if folders else None
            scores_V.append(_scores_of(name, score, prompts, responses, own, progress, folder))
    return ScoreMatrix(np.stack(scores_V, axis=1), list(scores), prompt_ids)


def _scores_of(
    name: str,
    score: Score,
    prompts: Sequence[str],
    responses: Sequence[str],
    columns: Columns,
    progress: Callable[[str, int, int], None],
    folder: Path | None,
) -> np.ndarray:
    """(N,) of one value, in the order of the texts."""
    complete = folder / "scores.npy" if folder else None
    if complete and complete.exists():
        return read_array(complete)
    order = score.order(prompts, responses)
    scorer, parts, chunks = None, [], []
    for start in range(0, len(order), score.stored_rows):
        rows = order[start : start + score.stored_rows]
        chunk = folder / f"{start}-{start + len(rows)}.npy" if folder else None
        if chunk and chunk.exists():
            parts.append(read_array(chunk))
        else:
            scorer = scorer or score.load(name)
            own = {column: [values[row] for row in rows] for column, values in columns.items()}
            part = scorer.score([prompts[row] for row in rows], [responses[row] for row in rows], own)
            parts.append(check_finite(name, part, rows))
            if chunk:
                write_array(chunk, parts[-1])
        chunks.append(chunk)
        progress(name, start + len(rows), len(order))
    scores_N = np.empty(len(order))
    scores_N[order] = np.concatenate(parts)
    if complete:
        write_array(complete, scores_N)
        for chunk in filter(None, chunks):
            chunk.unlink(missing_ok=True)
    return scores_N


def check_finite(name: str, scores_N: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray:
    """The scores; UserError for the first that is not finite. rows: numbers of their responses; None: from 0 on."""
    invalid = np.flatnonzero(~np.isfinite(scores_N))
    if len(invalid):
        raise UserError(
            f"The score {name!r} is {scores_N[invalid[0]]} for response "
            f"{rows[invalid[0]] if rows else invalid[0]}; missing scores "
            "are not replaced, so give a finite number for every response."
        )
    return scores_N
