"""Stage `evaluate`: realized levels on held-out prompts -> evaluation.json, figures/, report.html, .md and .csv."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd

from mapft.config import BASE, TUNED, PolicyConfig, identity
from mapft.config.identity import fingerprint
from mapft.evaluation.result import Evaluation, PolicyResult, ValueResult
from mapft.palette import explain
from mapft.pipeline import artifacts
from mapft.pipeline.batches import batched_config
from mapft.pipeline.duration import evaluation_seconds, samples_per_prompt, speed
from mapft.pipeline.index import write_index
from mapft.pipeline.run import Run, plain_settings
from mapft.pipeline.score import score_table
from mapft.playground.paths import existing_or_hub, file_state
from mapft.utils.errors import UserError
from mapft.utils.files import read_json
from mapft.utils.seeds import derive_seed
from mapft.utils.terminal import clock


def evaluate(run: Run) -> None:
    """Evaluate base, tuned and every policy of evaluation.policies, write the report, and print the closing table.

    The table of base and tuned is printed before the other policies are evaluated. Nothing is repeated while the
    settings of the evaluation and the policies are unchanged.
    """
    from mapft.evaluation.closing import print_closing

    if len(run.prompts.held_out) < 2:
        raise UserError(
            "There is 1 held-out prompt, and an interval needs 2; raise evaluation.prompts or data.evaluation_fraction."
        )
    policies = evaluated_policies(run)
    cache_key = fingerprint(
        identity(run.config.evaluation), [policy_identity(run, *policy) for policy in policies.items()]
    )
    evaluation = _existing(run, cache_key)
    if evaluation is None:
        tables = {name: policy_responses(run, name, policies[name]) for name in (BASE, TUNED)}
        more = {name: policy for name, policy in policies.items() if policy and name not in tables}
        evaluation = _evaluation(run, tables, cache_key)
        if more:
            print_closing(evaluation, run.console)
            for name, policy in more.items():
                _print_cost(run, name, policy)
                tables[name] = policy_responses(run, name, policy)
            results = _summarized(run, tables)[1]
            priced = {
                name: _priced(run, policy, results[name], tables[BASE], tables[name]) for name, policy in more.items()
            }
            evaluation = dataclasses.replace(evaluation, policies=results | priced)
        _write_report(run, evaluation, tables)
        artifacts.write_evaluation(run.folder, evaluation)
    if run.config.tracking.names() and not evaluation.tracked:
        from mapft.tracking.callback import track_evaluation

        if track_evaluation(run.config, run.folder, evaluation):
            artifacts.write_evaluation(run.folder, dataclasses.replace(evaluation, tracked=True))
    if run.folder.path.parent == Path(run.config.output):
        write_index(run.folder.path.parent)
    print_closing(evaluation, run.console)


def evaluated_policies(run: Run) -> dict[str, PolicyConfig | None]:
    """The policies by name; None is the base policy."""
    tuned = PolicyConfig(adapter=str(run.folder.adapter))
    return {BASE: None, TUNED: tuned, **run.config.evaluation.policies}


def policy_identity(run: Run, name: str, policy: PolicyConfig | None) -> dict[str, Any]:
    """Everything that a policy's scored responses depend on."""
    source: list[Any] = [name]
    if policy and policy.adapter:
        source += [policy.adapter, file_state(policy.adapter)]
    if policy and policy.candidates:
        source += [identity(policy), _decoding_lam(run, policy.adapter), run.config.decoding.max_candidates]
    return run.scoring_identity | {
        "prompts": run.config.evaluation.prompts,
        "samples_per_prompt": samples_per_prompt(run, policy),
        "policy": source,
    }


def policy_responses(run: Run, name: str, policy: PolicyConfig | None) -> pd.DataFrame:
    """A policy's responses to the held-out prompts with scores and KL -> evaluation_{name}.parquet.

    Rejection sampling may leave prompts unanswered; they are left out, and their number is printed.
    """
    table = run.cache.table(
        "evaluation", policy_identity(run, name, policy), lambda: _generate_and_score(run, name, policy)
    )
    artifacts.write_table(run.folder.responses(name), table)
    answered = table[table["response"].notna()].reset_index(drop=True)
    if len(answered) < len(table):
        missing = f"{len(table) - len(answered)} of {len(table)} responses of {name} are missing"
        run.console.print(f"{missing}: rejection sampling accepted no candidate.", soft_wrap=True)
    if answered["prompt_id"].nunique() < 2:
        raise UserError(
            f"The policy {name} has responses to fewer than 2 prompts, too few for an interval; raise "
            "decoding.max_candidates or use choose=sample."
        )
    return answered


def trained_lam(run: Run) -> dict[str, float]:
    """The multipliers of p_lam: those at the end of a training that aims at the palette, else the pilot's."""
    trained = artifacts.read_training(run.folder) if run.folder.training.exists() else None
    return trained.lam if trained and trained.lam and run.config.mode.aims_at_palette else run.solution.lam


def _existing(run: Run, cache_key: str) -> Evaluation | None:
    """The evaluation in the run folder, where it has this key and its report is there."""
    if not run.folder.evaluation.exists() or not run.folder.report("html").exists():
        return None
    evaluation = artifacts.read_evaluation(run.folder)
    return evaluation if evaluation.cache_key == cache_key else None


def _print_cost(run: Run, name: str, policy: PolicyConfig) -> None:
    """What decoding costs, unless its responses are in the cache."""
    if not policy.candidates or run.cache.has_table("evaluation", policy_identity(run, name, policy)):
        return
    responses = len(run.prompts.held_out) * samples_per_prompt(run, policy)
    run.console.print(
        f"{name}: {policy.candidates} candidates for each of {responses} responses, about "
        f"{clock(evaluation_seconds(run, policy, speed(run, run.prompts.held_out)))}.",
        soft_wrap=True,
    )


def _evaluation(run: Run, tables: dict[str, pd.DataFrame], cache_key: str) -> Evaluation:
    from mapft.evaluation.convergence import kl_to_target, price_ratio
    from mapft.training.refinement import read_history, standard_errors

    record, config = run.solution_record, run.config
    sequential = read_json(run.folder.sequential) if run.folder.sequential.exists() else {}
    trained, pair = artifacts.read_training(run.folder), (tables[BASE], tables[TUNED])
    lam = trained_lam(run)
    values, results = _summarized(run, tables)
    return Evaluation(
        values=values,
        policies=results,
        solution=record.solution,
        prompts=int(tables[TUNED]["prompt_id"].nunique()),
        confidence=config.evaluation.confidence,
        tolerance_sd=config.evaluation.tolerance_sd,
        mode=config.mode.name,
        aims_at_palette=config.mode.aims_at_palette,
        lam=trained.lam,
        lam_error=standard_errors(read_history(run.folder.refinement)),
        scored=config.mode.scored_responses(config.trainer.total_episodes, len(run.matrix), run.folder),
        adjusted=record.adjusted,
        requested=record.requested,
        targets_from=config.palette.kinds(),
        adapter=str(run.folder.adapter),
        visits=sequential.get("visits", []),
        end=sequential.get("end", ""),
        kl_to_target=kl_to_target(*pair, lam, config.evaluation, config.seed),
        engine=_engine(run, tables),
        price_ratio=price_ratio(*pair, lam, record.solution.targets, config.evaluation, config.seed),
        cache_key=cache_key,
    )


def _summarized(run: Run, tables: dict[str, pd.DataFrame]) -> tuple[dict[str, ValueResult], dict[str, PolicyResult]]:
    from mapft.evaluation.levels import summarize

    record, config = run.solution_record, run.config
    return summarize(tables, record.solution, record.sd, config.evaluation, config.seed)


def _priced(
    run: Run, policy: PolicyConfig, result: PolicyResult, base: pd.DataFrame, table: pd.DataFrame
) -> PolicyResult:
    """The result with the price ratio, unless the KL is an upper bound."""
    from mapft.evaluation.convergence import price_ratio

    if policy.candidates and policy.choose.kl_is_bound(samples_per_prompt(run, policy)):
        return dataclasses.replace(result, kl_is_bound=True)
    lam, targets = _decoding_lam(run, policy.adapter), run.solution.targets
    ratio = price_ratio(base, table, lam, targets, run.config.evaluation, run.config.seed)
    return dataclasses.replace(result, price_ratio=ratio)


def _engine(run: Run, tables: dict[str, pd.DataFrame]) -> dict[str, float]:
    """The largest mismatch of the engine with the base policy (pilot or evaluation) or the tuned one."""
    from mapft.sampling.engines import mismatch
    from mapft.sampling.responses import ENGINE_LOG_RATIO

    proposed = [table for table in (run.samples, tables[BASE], tables[TUNED]) if ENGINE_LOG_RATIO in table]
    mismatches = [mismatch(table[ENGINE_LOG_RATIO], run.config.engine.max_ratio) for table in proposed]
    return vars(max(mismatches, key=lambda each: each.level_bound)) if mismatches else {}


def _write_report(run: Run, evaluation: Evaluation, tables: dict[str, pd.DataFrame]) -> None:
    from mapft.evaluation.figures import run_figures
    from mapft.evaluation.report import Report, write_report

    captions = run_figures(run.folder, run.matrix, evaluation, tables)
    stored = artifacts.read_run_record(run.folder)
    settings = stored.config | {"evaluation": plain_settings(run.config.evaluation)}
    explanation = explain(run.matrix, run.solution)
    write_report(Report(evaluation, tables, captions, explanation, settings, run.command, stored.versions), run.folder)


def _generate_and_score(run: Run, name: str, policy: PolicyConfig | None) -> pd.DataFrame:
    if policy and policy.candidates:
        return _decoded(run, name, policy)
    from mapft.sampling.engines import make_engine
    from mapft.sampling.models import load_adapter, load_policy
    from mapft.sampling.responses import generate
    from mapft.sampling.tokens import token_rows
    from mapft.utils.device import free_memory

    config, per_prompt = batched_config(run), samples_per_prompt(run, policy)
    free_memory()  # of training
    model, tokenizer = load_policy(config.model)
    if policy and policy.adapter:
        adapter = existing_or_hub(policy.adapter, f"evaluation.policies.{name}.adapter")
        model = load_adapter(model, Path(adapter))
    with run.progress() as update:
        samples = generate(
            model,
            tokenizer,
            token_rows(run.prompts.held_out),
            config.sampling,
            per_prompt,
            derive_seed(config.seed, "evaluation", name),
            lambda done, total: update(f"{name} policy: sampling", done, total),
            measure_kl=policy is not None,
            engine=make_engine(config),
        )
        del model
        free_memory()
        scores = score_table(run, samples, run.prompts.held_out, update, f"{name} policy").drop(columns="prompt_id")
    if policy is None:
        samples["kl"] = 0.0
    return pd.concat([samples, scores], axis=1)


def _decoded(run: Run, name: str, policy: PolicyConfig) -> pd.DataFrame:
    """Decoding, see `aligned_sampler`."""
    assert policy.candidates is not None
    per_prompt, held_out = samples_per_prompt(run, policy), run.prompts.held_out
    total = len(held_out) * per_prompt
    parts: list[pd.DataFrame] = []
    with run.progress() as update:
        update(f"{name} policy", 0, total)
        for part in aligned_sampler(run, policy.adapter, f"evaluation.policies.{name}.adapter").stream(
            held_out,
            policy.candidates,
            policy.choose,
            samples_per_prompt=per_prompt,
            max_candidates=run.config.decoding.max_candidates,
            seed=derive_seed(run.config.seed, "evaluation", name),
        ):
            parts.append(part)
            update(f"{name} policy", sum(map(len, parts)), total)
    return pd.concat(parts, ignore_index=True)


def aligned_sampler(run: Run, adapter: str | None, option: str) -> Any:
    """An AlignedSampler of the base policy, with the pilot's lambda, or of an adapter, which `option` names, with the
    lambda of the training.
    """
    from mapft.sampling.decoding import AlignedSampler
    from mapft.sampling.engines import make_engine
    from mapft.sampling.models import load_adapter, load_policy

    model, tokenizer = load_policy(run.config.model)
    if adapter:
        model = load_adapter(model, Path(existing_or_hub(adapter, option)))
    config = batched_config(run)
    engine = make_engine(config)
    return AlignedSampler(model, tokenizer, run.scores, _decoding_lam(run, adapter), config.sampling, engine)


def _decoding_lam(run: Run, adapter: str | None) -> dict[str, float]:
    return trained_lam(run) if adapter else run.solution.lam
