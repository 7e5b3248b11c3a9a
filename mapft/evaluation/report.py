"""The closing table of a run, and its report: one self-contained HTML file, Markdown, and CSV."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from mapft.config import TUNED, Choose, EvaluationConfig
from mapft.config.run_folder import RunFolder
from mapft.evaluation.levels import mean_over_prompts
from mapft.evaluation.result import Estimate, Evaluation, PolicyResult
from mapft.palette import DualSolution
from mapft.utils.files import write_atomically, write_text
from mapft.utils.terminal import NO_BREAK, print_table

SHOWN_PROMPTS = 12  # whose responses the report shows
CONVERGED = 0.05  # nats: for roughly Gaussian scores, a level is then off by at most sqrt(2 * .05) = .3 sd
MAX_CHARACTERS = 4000  # of one response
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")  # invalid in HTML


# ---------------------------------------------------------------------- on the terminal


def print_closing(evaluation: Evaluation, console: Console) -> None:
    """Predicted and realized levels, the KL, and where the adapter is."""
    headings, rows = closing_table(evaluation)
    print_table(console, headings, rows, title=f"Predicted and realized on {evaluation.prompts} held-out prompts")
    for sentence in closing_sentences(evaluation):
        console.print(sentence, soft_wrap=True)


def closing_table(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """(headings, rows): a row per value. lambda: of the pilot, and after the arrow at the end of training.

    +- is the longer half of the interval; evaluation.json has both ends. A baseline has no predicted levels, and only
    its final lambda.
    """
    headings = [
        "value",
        "base",
        "target",
        "lambda",
        "predicted",
        f"realized ±{NO_BREAK}{100 * evaluation.confidence:.0f}{NO_BREAK}%",
        "gap (sd)",
        f"within {evaluation.tolerance_sd:g}{NO_BREAK}sd",
    ]
    rows = []
    for name, value in evaluation.values.items():
        pilot, final = f"{value.lam:#.3g}", f"{evaluation.lam[name]:#.3g}" if evaluation.lam else ""
        rows.append(
            [
                name,
                f"{value.base:.3f}",
                "free" if value.target is None else f"{value.target:.3f}",
                final if final == pilot or not evaluation.aims_at_palette else f"{pilot}→{final}",
                f"{value.predicted:.3f}" if evaluation.aims_at_palette else "",
                _estimate(value.realized),
                "" if value.gap_sd is None else f"{value.gap_sd:+.3f}",
                "" if value.met is None else ("yes" if value.met else "no"),
            ]
        )
    return headings, rows


def closing_sentences(evaluation: Evaluation) -> list[str]:
    """What stands below the table."""
    sentences = kl_sentences(evaluation)
    if evaluation.adjusted:
        sentences.append("The requested palette is infeasible; these are the targets of the nearest feasible one.")
    if evaluation.visits:
        skipped = sum(visit["skipped"] for visit in evaluation.visits)
        sentences.append(f"{len(evaluation.visits)} visits, {skipped} of them skipped: {evaluation.end}")
    return [*sentences, f"Adapter: {evaluation.adapter}"]


def kl_sentences(evaluation: Evaluation) -> list[str]:
    """The KL to the base policy, what part of it the levels need, and the KL to p_lam."""
    kl = _interval(evaluation.tuned.kl)
    if evaluation.aims_at_palette:
        sentences = [f"KL to the base policy: {evaluation.kl_predicted:.3f} nats predicted, {kl} measured."]
    else:
        sentences = [f"KL to the base policy: {kl} nats measured."]
        sentences.append(f"mode={evaluation.mode} is a baseline: it does not aim at the targets.")
    if errors := {name: error for name, error in evaluation.lam_error.items() if error}:
        sentences.append(
            "Standard error of the last estimate of lambda: "
            + ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
            + "."
        )
    if evaluation.price_ratio:
        ratio = _interval(evaluation.price_ratio, digits=2)
        sentences.append(f"Price ratio: {ratio} times the least KL that has the realized levels.")
    if evaluation.kl_to_target and evaluation.aims_at_palette:
        sentences.append(f"KL to p_lam: {_interval(evaluation.kl_to_target)} nats.")
        if evaluation.kl_to_target.low > CONVERGED:
            more = evaluation.scored * (evaluation.kl_to_target.mean / CONVERGED - 1)
            sentences.append(
                f"The policy has not converged: its KL to p_lam is above {CONVERGED:g} nats, which takes about "
                f"{float(f'{more:.2g}'):,.0f} more responses (the KL falls about as 1/responses), or a larger adapter."
            )
    return sentences


def print_decoding(
    rows: pd.DataFrame, solution: DualSolution, choose: Choose, settings: EvaluationConfig, console: Console
) -> None:
    """Levels, effective candidates and KL of the responses of `mapft decode`.

    rows: a row per requested response, with prompt_id, response (None: no candidate was accepted), candidates,
    accepted, ess, kl and a column per value.
    """
    missing = int(rows["response"].isna().sum())
    answered = rows[rows["response"].notna()]
    if missing:
        console.print(f"{missing} of {len(rows)} responses are missing: no candidate was accepted.", soft_wrap=True)
    if choose is Choose.rejection:
        accepted, generated = int(rows["accepted"].sum()), int(rows["candidates"].sum())
        console.print(f"Accepted: {accepted} of {generated} candidates ({100 * accepted / generated:.2g} %).")
    if answered["prompt_id"].nunique() < 2:
        return
    ids = answered["prompt_id"].to_numpy()
    table = []
    for name, predicted in solution.predicted.items():
        target, level = solution.targets.get(name), mean_over_prompts(answered[name].to_numpy(float), ids, settings)
        table.append([name, "free" if target is None else f"{target:.3f}", f"{predicted:.3f}", _estimate(level)])
    print_table(
        console,
        ["value", "target", "predicted", f"realized ±{NO_BREAK}{100 * settings.confidence:.0f}{NO_BREAK}%"],
        table,
        title=f"{len(answered)} responses to {answered['prompt_id'].nunique()} prompts",
    )
    ess, candidates = answered["ess"], answered["candidates"].mean()
    bound = "about" if choose is Choose.rejection else "at most"
    console.print(
        f"Effective candidates: {ess.median():.1f} of {candidates:.1f} per response for the median prompt, "
        f"{ess.min():.1f} for the worst; KL to the base policy {bound} {answered['kl'].mean():.3f} nats "
        f"({solution.kl:.3f} predicted).",
        soft_wrap=True,
    )


# ---------------------------------------------------------------------- files


@dataclass(frozen=True)
class Report:
    """What the report of a run shows.

    tables: responses by policy, with scores. captions: by name of a figure in the run's folder of figures.
    explanation: of the dual solution. settings, command, versions: of the run.
    """

    evaluation: Evaluation
    tables: Mapping[str, pd.DataFrame]
    captions: Mapping[str, str]
    explanation: str
    settings: Mapping[str, Any]
    command: str
    versions: Mapping[str, str]


def write_report(report: Report, folder: RunFolder) -> None:
    """Write report.html, report.md and report.csv; the figures must be in folder.figures."""
    write_text(folder.report("html"), report_html(report, folder.figures))
    write_text(folder.report("md"), report_markdown(report.evaluation))
    frame = policy_frame(report.evaluation.policies)
    write_atomically(folder.report("csv"), lambda temporary: frame.to_csv(temporary, index=False))


def report_html(report: Report, figures: Path) -> str:
    """One page without scripts that loads no other file; all texts of models are escaped (report.html.jinja).

    figures: folder of {name}.svg.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": _number, "estimate": _estimate, "printable": printable}
    settings, evaluation = report.settings, report.evaluation
    return environment.get_template("report.html.jinja").render(
        title=f"{settings['model']['path']} at the palette {settings['palette']['name']}",
        verdict=verdict(evaluation),
        evaluation=evaluation,
        kl_sentences=kl_sentences(evaluation),
        values=evaluation.values,
        explanation=report.explanation.splitlines(),
        figures=[
            {"caption": caption, "data": _base64(figures / f"{name}.svg")} for name, caption in report.captions.items()
        ],
        samples=side_by_side(report.tables, list(evaluation.values)),
        command=report.command,
        config=CONTROL.sub("", json.dumps(settings, indent=2)),
        versions=report.versions,
    )


def verdict(evaluation: Evaluation) -> str:
    """One sentence: which targets are met."""
    judged = {name: value.met for name, value in evaluation.values.items() if value.met is not None}
    if not judged:
        return "No target can be judged: the scores of every value with a target are constant."
    missed = [name for name, met in judged.items() if not met]
    tolerance, prompts = f"{evaluation.tolerance_sd:g} sd", f"{evaluation.prompts} held-out prompts"
    if not missed:
        return f"Every target is met within {tolerance} on {prompts}: {', '.join(judged)}."
    return (
        f"{len(missed)} of {len(judged)} targets are missed by more than {tolerance} on {prompts}: {', '.join(missed)}."
    )


def side_by_side(tables: Mapping[str, pd.DataFrame], values: list[str]) -> list[dict[str, Any]]:
    """The first response of every policy to the first prompts, with its scores; the tuned policy is first."""
    ordered = sorted(tables, key=lambda name: (name != TUNED, list(tables).index(name)))
    first = {name: tables[name].drop_duplicates("prompt_id").set_index("prompt_id") for name in ordered}
    samples = []
    for prompt in first[TUNED].index[:SHOWN_PROMPTS]:
        rows = [
            {"policy": name, "response": row["response"] or "", "scores": [float(row[value]) for value in values]}
            for name, row in ((name, first[name].loc[prompt]) for name in ordered if prompt in first[name].index)
        ]
        samples.append({"prompt": first[TUNED].loc[prompt, "prompt"], "rows": rows})
    return samples


def report_markdown(evaluation: Evaluation) -> str:
    """The closing table and all policies, as Markdown."""
    headings, rows = closing_table(evaluation)
    columns = [heading.replace(NO_BREAK, " ") for heading in headings]
    closing = pd.DataFrame(rows, columns=columns).to_markdown(index=False, disable_numparse=True)
    policies = policy_frame(evaluation.policies).to_markdown(index=False, floatfmt=".4g")
    lines = ["# Predicted and realized levels", "", closing, ""]
    for sentence in closing_sentences(evaluation):
        lines += [sentence, ""]
    return "\n".join([*lines, "## All policies", "", policies, ""])


def policy_frame(policies: Mapping[str, PolicyResult]) -> pd.DataFrame:
    """One row per policy and value: level and win rate with intervals, and the statistics of the policy."""
    rows = []
    for name, policy in policies.items():
        for value, level in policy.levels.items():
            wins, kl = policy.win_rate[value], policy.kl
            row = {"policy": name, "value": value, "level": level.mean, "low": level.low, "high": level.high}
            row |= {"win_rate": wins.mean, "win_rate_low": wins.low, "win_rate_high": wins.high}
            row |= {"kl": kl.mean, "kl_low": kl.low, "kl_high": kl.high, "tokens": policy.tokens.mean}
            row |= {"distinct_2": policy.distinct_2.mean, "truncated": policy.truncated.mean}
            rows.append(row | {"responses": policy.responses})
    return pd.DataFrame(rows)


def printable(text: str) -> str:
    """At most MAX_CHARACTERS characters, without those that are invalid in HTML; jinja escapes the rest."""
    shown = text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " …"
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", shown)


def _number(number: float) -> str:
    return f"{number:.4g}"


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} ± {estimate.half_width:.3f}"


def _interval(estimate: Estimate, digits: int = 3) -> str:
    return f"{estimate.mean:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
