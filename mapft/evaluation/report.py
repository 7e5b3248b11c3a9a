"""The report of a run: one self-contained HTML file, Markdown, and CSV."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mapft.config import TUNED
from mapft.config.run_folder import RunFolder
from mapft.evaluation.closing import ADJUSTED, answer, closing_sentences, closing_table, questions
from mapft.evaluation.page import figure, number, render, settings_text
from mapft.evaluation.result import Evaluation, PolicyResult
from mapft.utils.files import write_atomically, write_text
from mapft.utils.terminal import NO_BREAK

SHOWN_PROMPTS = 40  # whose responses the report shows
SECTIONS = {
    "answer": "Levels and price",
    "prices": "Lambda",
    "questions": "Three questions",
    "training": "Training",
    "policies": "Policies",
    "samples": "Samples",
    "reproduce": "Reproduce",
}


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
    """The page (pages/report.html.jinja). figures: folder of {name}.svg and their narrow versions."""
    settings, evaluation = report.settings, report.evaluation
    return render(
        "report",
        title=f"{settings['model']['path']} at the palette {settings['palette']['name']}",
        answer=answer(evaluation),
        notices=notices(evaluation),
        sections=SECTIONS.items(),
        evaluation=evaluation,
        values=evaluation.values,
        met=[value.met for value in evaluation.values.values() if value.met is not None],
        questions=questions(evaluation),
        explanation=report.explanation.splitlines(),
        figures={name: figure(figures, name, caption) for name, caption in report.captions.items()},
        samples=side_by_side(report.tables, list(evaluation.values)),
        command=report.command,
        config=settings_text(settings),
        versions=report.versions,
    )


def notices(evaluation: Evaluation) -> list[str]:
    """What a reader must know before the figures."""
    sentences = []
    if evaluation.adjusted:
        requested = ", ".join(f"{name} {number(target)}" for name, target in evaluation.requested.items())
        sentences.append(f"{ADJUSTED} Requested: {requested}.")
    if not evaluation.aims_at_palette:
        sentences.append(f"mode={evaluation.mode} is a baseline: it does not aim at the targets.")
    if evaluation.end:
        sentences.append(f"{len(evaluation.visits)} visits: {evaluation.end}")
    return sentences


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
