"""Stage `sample`: the prompts as tokens -> prompts.parquet; responses of the base policy to some -> samples.parquet."""

import pandas as pd

from mapft.pipeline.artifacts import write_table
from mapft.pipeline.batches import batched_config
from mapft.pipeline.run import Run
from mapft.pipeline.score import check_scores
from mapft.sampling.split import load_split, rendered_table
from mapft.utils.seeds import derive_seed


def sample(run: Run) -> None:
    """K samples for every pilot prompt; runs with the same base policy, prompts and sampling share them."""
    if run.is_main and not run.folder.prompts.exists():
        write_table(run.folder.prompts, _rendered(run))
    if run.is_main and not run.folder.samples.exists():
        write_table(run.folder.samples, run.cache.table("samples", run.sampling_identity, lambda: _generate(run)))
    run.wait_for(run.folder.samples)


def _rendered(run: Run) -> pd.DataFrame:
    """The prompts, which runs with the same tokenizer and data share."""
    training, held_out = load_split(run.config, run.scores, run.tell)
    depends_on = {name: run.identity[name] for name in ("model", "data")} | {"files": run.base_files}
    depends_on |= {"columns": list(training[0].columns)}

    def make() -> pd.DataFrame:
        from mapft.sampling.models import load_tokenizer

        return rendered_table(training, held_out, load_tokenizer(run.config.model))

    return run.cache.table("prompts", depends_on, make)


def _generate(run: Run) -> pd.DataFrame:
    from mapft.sampling.models import load_policy
    from mapft.sampling.responses import generate
    from mapft.sampling.tokens import check_prompt_lengths, token_rows

    config, prompts = batched_config(run), run.prompts
    check_scores(run)
    policy, tokenizer = load_policy(config.model)
    check_prompt_lengths(token_rows(prompts.training + prompts.held_out), policy, config.data, config.sampling)
    with run.progress() as update:
        return generate(
            policy,
            tokenizer,
            token_rows(prompts.pilot),
            config.sampling,
            config.sampling.samples_per_prompt,
            derive_seed(config.seed, "pilot"),
            lambda done, total: update("pilot: sampling", done, total),
        )
