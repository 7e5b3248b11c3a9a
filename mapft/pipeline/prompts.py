"""The prompts of a run, rendered once as tokens -> prompts.parquet."""

import pandas as pd

from mapft.pipeline.artifacts import write_table
from mapft.pipeline.run import Run
from mapft.sampling.split import load_split, rendered_table


def render_prompts(run: Run) -> None:
    """Write the prompts that `Run.prompts` reads; runs with the same tokenizer and data share them."""
    if run.is_main and not run.folder.prompts.exists():
        write_table(run.folder.prompts, _rendered(run))


def _rendered(run: Run) -> pd.DataFrame:
    training, held_out = load_split(run.config, run.scores, run.tell)
    depends_on = {name: run.identity[name] for name in ("model", "data")} | {"files": run.base_files}
    depends_on |= {"columns": list(training[0].columns)}

    def make() -> pd.DataFrame:
        from mapft.sampling.models import load_tokenizer

        return rendered_table(training, held_out, load_tokenizer(run.config.model))

    return run.cache.table("prompts", depends_on, make)
