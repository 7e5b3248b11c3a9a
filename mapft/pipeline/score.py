"""Stage `score`: the base samples under every value -> scores.parquet."""

from collections.abc import Sequence

import pandas as pd

from mapft.pipeline.artifacts import write_table
from mapft.pipeline.run import Run
from mapft.rewards.score import own_columns
from mapft.sampling.prompts import PromptRow, columns_of
from mapft.utils.terminal import Update
from mapft.utils.text import text_of


def score(run: Run) -> None:
    """Raw scores of all samples; values that were scored before are read from the cache."""
    if run.is_main and not run.folder.scores.exists():
        with run.progress() as update:
            write_table(run.folder.scores, score_table(run, run.samples, run.prompts.pilot, update, "pilot"))
    run.wait_for(run.folder.scores)


def check_scores(run: Run) -> None:
    """UserError, before the pilot, for a score that cannot be loaded, or whose model cannot score the first prompt."""
    from mapft.rewards.scoring import check_finite
    from mapft.utils.device import free_memory

    row = run.prompts.pilot[0]
    for name, score in run.scores.items():
        scorer = score.load(name)
        if scorer.nbytes:  # a function or a server may take long, cost, or count its calls
            columns = own_columns(name, score, columns_of([row]))
            check_finite(name, scorer.score([text_of(row.prompt)], [""], columns))
        del scorer
        free_memory()


def score_table(run: Run, samples: pd.DataFrame, rows: Sequence[PromptRow], update: Update, whose: str) -> pd.DataFrame:
    """prompt_id and a column per value, for samples of these rows; each value is cached by itself.

    update: told the progress. whose: the samples, in its texts.
    """
    from mapft.rewards.scoring import score_texts

    prompts, responses = samples["prompt"].tolist(), samples["response"].tolist()
    columns = columns_of([rows[number] for number in samples["prompt_id"]])
    folders = {
        name: run.cache.scores(
            name,
            {
                "score": run.score_identities[name],
                "files": run.score_files[name],
                "prompts": prompts,
                "responses": responses,
                "columns": own_columns(name, score, columns),
            },
        )
        for name, score in run.scores.items()
    }
    matrix = score_texts(
        run.scores,
        prompts,
        responses,
        samples["prompt_id"].tolist(),
        lambda name, done, total: update(f"{whose}: scoring {name}", done, total),
        folders,
        columns,
    )
    table = pd.DataFrame(matrix.scores, columns=list(matrix.values))
    table.insert(0, "prompt_id", matrix.prompt_ids)
    return table
