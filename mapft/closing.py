"""What a run ends with: the promise checked, pictures and report, decoding, the model in one piece.

Every function takes a `Run`, makes what is missing before it, and keeps what is there.
"""

import dataclasses
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mapft.config import Choose, Config, PolicyConfig, Quantization, SequentialMode, fingerprint
from mapft.errors import UserError
from mapft.evaluation.realized import BASE, TUNED
from mapft.palette import DualSolution, Palette, adjust, explain
from mapft.paths import existing_or_hub
from mapft.sampling.prompts import load_prompts
from mapft.sampling.store import TEMPORARY, read_json, stored, write_atomically, write_json, write_text
from mapft.seeding import derive_seed
from mapft.stages import TRAINING, Run, file_state

if TYPE_CHECKING:
    from mapft.sampling.decoding import AlignedSampler


def execute(config: Config, stage: str, as_json: bool = False, command: str = "") -> float | None:
    """Run the job up to and including `stage`; what is already there is kept. command: as the user gave it.

    Returns, of an evaluation, what a sweep over PPO's parameters maximises (see `attained`).
    """
    warnings.filterwarnings(
        "ignore", "`is_gradient_checkpointing", FutureWarning
    )  # transformers about peft's and TRL's use
    run = Run(config)
    for name, policy in config.evaluation.policies.items():
        if policy.adapter:
            existing_or_hub(policy.adapter, f"evaluation.policies.{name}.adapter")
    run.console.quiet = run.console.quiet or as_json
    with run.alone():
        run.open(command)
        return _execute(run, stage, as_json)


def _execute(run: Run, stage: str, as_json: bool) -> float | None:
    config = run.config
    run.console.print(f"Run folder: {run.folder}", soft_wrap=True, markup=False)
    run.tell_of_trust()
    if config.model.adapter:
        run.console.print(
            f"The base policy is {config.model.path} with the adapter {config.model.adapter}.", soft_wrap=True
        )
    if not run.main:
        if stage in ("train", "evaluate"):
            run.join_training()
        return None
    made: Any = (CLOSING[stage] if stage in CLOSING else getattr(Run, stage))(run)
    if stage == "solve":
        _show_solution(run, made, as_json)
    elif stage == "evaluate":
        return attained(made)
    else:
        run.console.print(made if isinstance(made, Path) else f"{len(made)} rows.", soft_wrap=True)

    return None


def attained(summary: dict[str, Any]) -> float:
    """lam.(realized levels) - KL in nats, with the pilot's lam: what PPO maximises without refinement."""
    lam, levels = summary["solution"]["lam"], summary["values"]
    return sum(lam[name] * levels[name]["realized"]["mean"] for name in lam) - summary["kl"]["mean"]


def _show_solution(run: Run, solution: DualSolution, as_json: bool) -> None:
    """For a reader, or as JSON for a machine."""
    from mapft.palette import adjustment_table, analyse, bootstrap, table

    matrix = run.score()
    record = read_json(run.folder / "solution.json")
    uncertainty, trouble = None, ""
    with run.console.status("resampling the prompts for intervals"):
        try:
            uncertainty = bootstrap(matrix, solution)
        except UserError as error:
            trouble = f"No intervals: {error}"
    if as_json:
        more = {"analysis": analyse(matrix, solution).to_dict(), "asked": record["asked"]}
        more |= {"adjusted": record["adjusted"], "intervals": uncertainty and uncertainty.to_dict()}
        print(json.dumps(solution.to_dict() | more, indent=2))
        return
    if record["adjusted"]:
        asked = Palette(record["asked"])
        nearest = adjust(matrix, asked, floor_ess=run.config.dual.floor_ess, estimator=solution.estimator)
        run.console.print("The palette asked for is out of reach; this is the nearest one that is not.")
        run.console.print(adjustment_table(matrix, nearest))
    run.console.print(table(matrix, solution, uncertainty))
    run.console.print(explain(matrix, solution, uncertainty), soft_wrap=True)
    if trouble:
        run.console.print(trouble, soft_wrap=True)


# ---------------------------------------------------------------------- evaluate


def evaluate(run: Run) -> dict[str, Any]:
    """Every policy on the held-out prompts -> evaluation.json, figures/, report.html, report.md, report.csv.

    They are made again when the settings of the evaluation or a policy have changed.
    """
    from mapft.evaluation.report import print_closing, write_report

    path, page = run.folder / "evaluation.json", run.folder / "report.html"
    if len(run.prompts[2]) < 2:
        raise UserError(
            "There is 1 held-out prompt, which gives no interval; give more prompts or hold more of them out."
        )
    found_under = fingerprint(run.config.evaluation, [_depends(run, *policy) for policy in policies(run).items()])
    if not path.exists() or not page.exists() or read_json(path)["fingerprint"] != found_under:
        summary, tables = _summary(run)
        pictures, explanation = _pictures(run, summary, tables), explain(run.score(), run.solve())
        record = read_json(run.folder / "config.json")
        record |= {"command": run.command, "config": record["config"] | {"evaluation": _plain(run.config.evaluation)}}
        write_report(summary, tables, pictures, explanation, record, run.folder)
        write_json(path, summary | {"fingerprint": found_under})
    summary = read_json(path)
    if run.config.tracking.wandb and summary.get("tracked") != found_under:
        from mapft.tracking.trackers import track_evaluation

        if track_evaluation(run.config, run.folder, summary):
            write_json(path, summary | {"tracked": found_under})
    print_closing(summary, run.console)
    return summary


def policies(run: Run) -> dict[str, PolicyConfig | None]:
    """What is evaluated, by name; None is the base policy."""
    from mapft.forward import give_back_memory

    tuned = PolicyConfig(adapter=str(run.train()))
    give_back_memory()  # what training held
    return {BASE: None, TUNED: tuned, **run.config.evaluation.policies}


def evaluate_policy(run: Run, name: str, policy: PolicyConfig | None) -> pd.DataFrame:
    """Fresh responses to the held-out prompts with their scores and kl -> evaluation_{name}.parquet.

    Rejection may leave prompts unanswered; they are left out, and their number is said.
    """
    store, depends = run.root / "store", _depends(run, name, policy)
    table = stored(store, "evaluation", depends, lambda: _draw_held_out(run, name, policy))
    write_atomically(run.folder / f"evaluation_{name}.parquet", lambda to: table.to_parquet(to, index=False))
    answered = table[table["response"].notna()].reset_index(drop=True)
    if len(answered) < len(table):
        missing = f"{len(table) - len(answered)} of {len(table)} responses of {name}"
        run.console.print(f"{missing} are missing: no candidate was accepted.", soft_wrap=True, markup=False)
    if answered["prompt_id"].nunique() < 2:
        raise UserError(f"The policy {name} answered fewer than 2 prompts; raise decoding.most_candidates.")
    return answered


def _depends(run: Run, name: str, policy: PolicyConfig | None) -> dict[str, Any]:
    """Everything that the responses of a policy depend on."""
    settings = run.config.evaluation
    who: list[Any] = [name]
    if policy and policy.adapter:
        who += [policy.adapter, file_state(policy.adapter)]
    elif policy:
        who += [_plain(policy), run.solve().lam, run.config.decoding.most_candidates]
    return run.scoring_depends() | {
        "prompts": settings.prompts,
        "samples_per_prompt": _per_prompt(run, policy),
        "policy": who,
    }


def _per_prompt(run: Run, policy: PolicyConfig | None) -> int:
    return (policy.samples_per_prompt if policy else None) or run.config.evaluation.samples_per_prompt


def _draw_held_out(run: Run, name: str, policy: PolicyConfig | None) -> pd.DataFrame:
    from mapft.forward import give_back_memory
    from mapft.sampling.generate import draw, tokenize
    from mapft.sampling.models import load_policy, with_adapter

    config, held_out, per_prompt = run.config, run.prompts[2], _per_prompt(run, policy)
    if policy and policy.candidates:
        parts: list[pd.DataFrame] = []
        how = {"samples_per_prompt": per_prompt, "most": config.decoding.most_candidates}
        seed = derive_seed(config.seed, "evaluation", name)
        with run.progress() as progress:
            for part in _sampler(run).stream(held_out, policy.candidates, policy.choose, seed=seed, **how):
                parts.append(part)
                progress(f"decoding: {name}", sum(map(len, parts)), len(held_out) * per_prompt)
        return pd.concat(parts, ignore_index=True)
    base, tokenizer = load_policy(config.model)
    with run.progress() as progress:
        samples = draw(
            with_adapter(base, Path(existing_or_hub(policy.adapter, f"evaluation.policies.{name}.adapter")))
            if policy and policy.adapter
            else base,
            tokenizer,
            tokenize(held_out, tokenizer),
            config.sampling,
            per_prompt,
            derive_seed(config.seed, "evaluation", name),
            lambda done, total: progress(f"sampling the {name} policy", done, total),
            measure_kl=policy is not None,
        )
    del base
    give_back_memory()
    if policy is None:
        samples["kl"] = 0.0
    scores = run.score_samples(samples, f"scoring the {name} policy").drop(columns="prompt_id")
    return pd.concat([samples, scores], axis=1)


def _sampler(run: Run) -> "AlignedSampler":
    """With the pilot's lambda."""
    from mapft.sampling.decoding import AlignedSampler
    from mapft.sampling.models import load_policy

    base, tokenizer = load_policy(run.config.model)
    return AlignedSampler(base, tokenizer, run.scores, run.solve().lam, run.config.sampling)


def _summary(run: Run) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    from mapft.align.sequential import STAGES
    from mapft.evaluation.realized import summarize

    solution, record = run.solve(), read_json(run.folder / "solution.json")
    tables = {name: evaluate_policy(run, name, policy) for name, policy in policies(run).items()}
    sequential: dict[str, Any] = {"stages": [], "end": ""}
    if isinstance(run.config.mode, SequentialMode):
        sequential = read_json(run.folder / STAGES)
    summary = {
        **summarize(tables, solution, record["sd"], run.config.evaluation, run.config.seed),
        "mode": run.config.mode.name,
        "lam": read_json(run.folder / TRAINING)["lam"],
        "stages": sequential["stages"],
        "end": sequential["end"],
        "adjusted": record["adjusted"],
        "asked": record["asked"],
        "ways": run.config.palette.ways(),
        "solution": record["solution"],
        "adapter": str(run.folder / "adapter"),
    }
    return summary, tables


def _pictures(run: Run, summary: dict[str, Any], tables: dict[str, pd.DataFrame]) -> dict[str, str]:
    """figures/*.svg and *.png; the caption of each by file name."""
    from mapft.evaluation import pictures

    figures, mode, solution, matrix = run.folder / pictures.FIGURES, run.config.mode, run.solve(), run.score()
    drawn = {
        "promise": (pictures.promise(summary), "Predicted for the pilot, and realized on held-out prompts."),
        "radar": (pictures.radar(matrix, summary), "Level of each value as a quantile of the base scores."),
        "front": (pictures.front(matrix, solution, summary), "Levels in pairs, with the front at the palette's KL."),
        "distributions": (pictures.distributions(tables, solution), "Scores of base and aligned policy."),
    }
    folders = [run.folder]
    if isinstance(mode, SequentialMode):
        record = read_json(run.folder / "sequential.json")
        folders = [run.folder / stage["folder"] for stage in record["stages"]]
        drawn["stages"] = (pictures.stages(record, solution.lam, mode.tolerance), "Every stage of sequential mode.")
    logs = [folder / "logs.jsonl" for folder in folders if (folder / "logs.jsonl").exists()]
    if logs:  # none where the base policy keeps the palette already
        found = pictures.trajectories(logs, solution.targets)
        if found is not None:
            drawn["trajectories"] = (found, "Mean scores and multipliers while training.")
    for name, (figure, _) in drawn.items():
        pictures.save(figure, figures, name)
    return {name: caption for name, (_, caption) in drawn.items()}


# ---------------------------------------------------------------------- decode, export


def decode(run: Run) -> Path:
    """Aligned responses without training -> decoded-*.jsonl, chunk by chunk as they come; a stopped one goes on."""
    from mapft.evaluation.report import print_decoding
    from mapft.sampling.decoding import too_few
    from mapft.sampling.generate import refuse_long, tokenize

    settings, solution, prompts = run.config.decoding, run.solve(), run.prompts[2]
    if settings.prompts:
        asked = dataclasses.replace(run.config.data, path=settings.prompts)
        prompts = load_prompts(asked, least=1, option="decoding.prompts")
        prompts = run.shortened(prompts, least=1)
    if settings.choose is not Choose.rejection and (sentence := too_few(solution.kl, settings.candidates)):
        run.console.print(sentence, soft_wrap=True)
    n, per_prompt, total = settings.candidates, settings.samples_per_prompt, len(prompts) * settings.samples_per_prompt
    name = fingerprint(settings, solution.lam, prompts)
    path = run.folder / f"decoded-{settings.choose.value}-{n}-{name}.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    lines = [line for line in lines if line.endswith("\n")]  # the last may be torn
    if len(lines) < total:
        sampler = _sampler(run)
        tokenized = tokenize(prompts, sampler.tokenizer)
        refuse_long(tokenized, sampler.model, run.config.data, run.config.sampling)
        chunk = sampler.chunk_size(n, per_prompt)
        first = len(lines) // (chunk * per_prompt) * chunk
        lines = lines[: first * per_prompt]
        write_text(path, "".join(lines))
        how = {"samples_per_prompt": per_prompt, "most": settings.most_candidates, "first": first}
        parts = sampler.stream(prompts, n, settings.choose, seed=derive_seed(run.config.seed, "decode"), **how)
        with path.open("a", encoding="utf-8") as file, run.progress() as progress:
            for part in parts:
                lines += part.to_json(orient="records", lines=True, double_precision=15).splitlines(keepends=True)
                file.writelines(lines[-len(part) :])
                file.flush()
                progress("decoding", len(lines), total)
    print_decoding(pd.DataFrame(map(json.loads, lines)), solution, settings.choose, run.config.evaluation, run.console)
    return path


def export(run: Run) -> Path:
    """The aligned model without adapter -> merged/, and model cards for it and for adapter/."""
    from mapft.evaluation.card import model_card
    from mapft.sampling.models import load_policy, with_adapter

    if run.config.model.quantization is not Quantization.none:
        raise UserError(
            f"model.quantization={run.config.model.quantization.value}: an adapter cannot be merged into a "
            "rounded base without loss; use the adapter as it is."
        )
    summary, record = evaluate(run), read_json(run.folder / "config.json")
    adapter, merged = run.train(), run.folder / "merged"
    if not merged.exists():
        policy, tokenizer = load_policy(run.config.model)
        whole = with_adapter(policy, adapter).merge_and_unload()
        temporary = run.folder / f".merged.{os.getpid()}{TEMPORARY}"
        whole.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.rename(merged)
    for folder, library in ((adapter, "peft"), (merged, "transformers")):
        write_text(folder / "README.md", model_card(summary, record["config"], record["versions"], library))
    return merged


def _plain(settings: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(settings), default=str))


def _compare(run: Run) -> Path:
    from mapft.comparison import compare

    return compare(run)


CLOSING: dict[str, Callable[[Run], Any]] = {
    "evaluate": evaluate,
    "decode": decode,
    "compare": _compare,
    "export": export,
}
