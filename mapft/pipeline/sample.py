"""Stage `sample`: responses of the base policy to the pilot prompts -> samples.parquet."""

import pandas as pd

from mapft.pipeline.artifacts import write_table
from mapft.pipeline.batches import batched_config
from mapft.pipeline.prompts import render_prompts
from mapft.pipeline.run import Run
from mapft.pipeline.score import check_scores
from mapft.utils.seeds import derive_seed


def sample(run: Run) -> None:
    """K samples for every pilot prompt; runs with the same base policy, prompts and sampling share them."""
    render_prompts(run)
    if run.is_main and not run.folder.samples.exists():
        write_table(run.folder.samples, run.cache.table("samples", run.sampling_identity, lambda: _generate(run)))
    run.wait_for(run.folder.samples)


def _generate(run: Run) -> pd.DataFrame:
    from mapft.sampling.engines import make_engine
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
            engine=make_engine(config),
        )
