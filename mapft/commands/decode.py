"""`mapft decode`: aligned responses without training."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd

from mapft.config import Choose, DecodingConfig
from mapft.config.identity import fingerprint, identity
from mapft.pipeline.evaluate import aligned_sampler
from mapft.pipeline.run import Run
from mapft.playground.paths import file_state
from mapft.sampling.prompts import PromptRow, load_prompts
from mapft.sampling.split import apply_length_limit
from mapft.utils.files import write_text
from mapft.utils.seeds import derive_seed


def decode(run: Run) -> Path:
    """One of n candidates for every prompt -> decoded-*.jsonl, written chunk by chunk.

    A command that was stopped continues after its last complete chunk.
    """
    from mapft.evaluation.closing import print_decoding
    from mapft.sampling.decoding import candidates_warning
    from mapft.sampling.tokens import check_prompt_lengths, token_rows

    settings, solution, rows = run.config.decoding, run.solution, _rows(run)
    from_base = settings.choose is not Choose.rejection and not settings.adapter
    if from_base and (sentence := candidates_warning(solution.kl, settings.candidates)):
        run.console.print(sentence, soft_wrap=True)
    n, per_prompt, total = settings.candidates, settings.samples_per_prompt, len(rows) * settings.samples_per_prompt
    tokens = [[row.ids, row.columns] for row in rows]
    depends_on = (identity(settings), solution.lam, tokens, *_adapter_state(settings))
    path = run.folder.decoded(settings.choose.value, n, fingerprint(*depends_on))
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    lines = [line for line in lines if line.endswith("\n")]  # a kill can leave part of the last line
    if len(lines) < total:
        sampler = aligned_sampler(run, settings.adapter, "decoding.adapter")
        check_prompt_lengths(token_rows(rows), sampler.model, run.config.data, run.config.sampling)
        chunk = sampler.chunk_size(n, per_prompt)
        first = len(lines) // (chunk * per_prompt) * chunk
        lines = lines[: first * per_prompt]
        write_text(path, "".join(lines))
        parts = sampler.stream(
            rows,
            n,
            settings.choose,
            samples_per_prompt=per_prompt,
            max_candidates=settings.max_candidates,
            seed=derive_seed(run.config.seed, "decode"),
            first=first,
        )
        with path.open("a", encoding="utf-8") as file, run.progress() as update:
            for part in parts:
                lines += part.to_json(orient="records", lines=True, double_precision=15).splitlines(keepends=True)
                file.writelines(lines[-len(part) :])
                file.flush()
                update("decoding", len(lines), total)
    print_decoding(pd.DataFrame(map(json.loads, lines)), solution, settings.choose, run.config.evaluation, run.console)
    return path


def _adapter_state(settings: DecodingConfig) -> list[Any]:
    return [file_state(settings.adapter)] if settings.adapter else []


def _rows(run: Run) -> list[PromptRow]:
    """decoding.prompts, or the held-out prompts, rendered."""
    from mapft.sampling.models import load_tokenizer
    from mapft.sampling.tokens import render

    settings = run.config.decoding
    if not settings.prompts:
        return run.prompts.held_out
    data = dataclasses.replace(run.config.data, path=settings.prompts, max_prompts=None)
    rows = load_prompts(data, run.scores, at_least=1, option="decoding.prompts", report=run.tell)
    remaining = apply_length_limit(rows, run.config, run.tell, at_least=1)
    return render(remaining, load_tokenizer(run.config.model))
