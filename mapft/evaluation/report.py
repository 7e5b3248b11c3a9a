"""The closing table, and the report that a run leaves: one html file that needs nothing else, markdown, and csv."""

import base64
import json
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mapft.config import Choose, EvaluationConfig
from mapft.evaluation.pictures import FIGURES
from mapft.evaluation.realized import TUNED, mean_over_prompts
from mapft.palette import DualSolution
from mapft.sampling.store import write_atomically, write_text

SAMPLES = 12  # prompts whose responses the report shows
LONGEST = 4000  # characters of one response
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")  # no HTML may hold these


def closing_table(summary: Mapping[str, Any]) -> Table:
    """value | base | target c | lambda, pilot and refined | predicted | realized +- interval | gap in sd | met?

    Narrow enough for a terminal of 80 columns; longer names and numbers are folded, never cut. +- is the longer half
    of the interval; evaluation.json has both ends.
    """
    title = f"Promised and realized on {summary['prompts']} held-out prompts"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    realized = f"realized\n± {100 * summary['confidence']:.0f} %"
    met = f"within\n{summary['tolerance_sd']:g} sd"
    for heading in ("value", "base", "target", "lambda", "predicted", realized, "gap\n(sd)", met):
        table.add_column(heading, justify="left" if heading == "value" else "right", overflow="fold")
    aims = aims_at_the_palette(summary)
    for name, row in summary["values"].items():
        real = row["realized"]
        lam, last = f"{row['lam']:#.3g}", summary["lam"] and f"{summary['lam'][name]:#.3g}"
        half = max(real["high"] - real["mean"], real["mean"] - real["low"])
        table.add_row(
            escape(name),
            f"{row['base']:.3f}",
            "free" if row["target"] is None else f"{row['target']:.3f}",
            (last or "") if not aims else lam if last == lam else f"{lam}→{last}",
            f"{row['predicted']:.3f}" if aims else "",
            f"{real['mean']:.3f} ± {half:.3f}",
            "" if row["gap_sd"] is None else f"{row['gap_sd']:+.3f}",
            "" if row["met"] is None else ("yes" if row["met"] else "no"),
        )
    return table


def print_closing(summary: Mapping[str, Any], console: Console) -> None:
    """The table, the cost in nats, and where the adapter is."""
    console.print(closing_table(summary))
    kl = summary["kl"]
    predicted = f"{summary['kl_predicted']:.3f} nats predicted, " if aims_at_the_palette(summary) else ""
    measured = f"{kl['mean']:.3f} [{kl['low']:.3f}, {kl['high']:.3f}]"
    console.print(
        f"KL to the base policy: {predicted}{measured} {'measured' if predicted else 'nats measured'}.", markup=False
    )
    if not predicted:
        console.print(f"A baseline ({summary['mode']}): it does not aim at the targets.", markup=False)
    if summary["adjusted"]:
        console.print("The palette asked for is out of reach; these are the nearest attainable targets.")
    if summary["stages"]:
        skipped = sum(stage["skipped"] for stage in summary["stages"])
        console.print(f"{len(summary['stages'])} stages, {skipped} of them skipped: {summary['end']}", soft_wrap=True)
    console.print(f"Adapter: {summary['adapter']}", soft_wrap=True, markup=False)


def aims_at_the_palette(summary: Mapping[str, Any]) -> bool:
    """Whether the mode trains towards p_lam; a baseline has no predicted levels."""
    return summary["mode"] in ("simultaneous", "sequential")


def print_decoding(
    rows: pd.DataFrame, solution: DualSolution, choose: Choose, settings: EvaluationConfig, console: Console
) -> None:
    """What `mapft decode` wrote: levels of its responses, effective candidates, KL."""
    missing = int(rows["response"].isna().sum())
    found = rows[rows["response"].notna()]
    if missing:
        console.print(f"{missing} of {len(rows)} responses are missing: no candidate was accepted.", soft_wrap=True)
    if choose is Choose.rejection:
        accepted, drawn = int(rows["accepted"].sum()), int(rows["candidates"].sum())
        console.print(f"Accepted: {accepted} of {drawn} candidates, {100 * accepted / drawn:.2g} %.", soft_wrap=True)
    if found["prompt_id"].nunique() < 2:
        return
    table = Table(title=f"{len(found)} responses to {found['prompt_id'].nunique()} prompts", box=SIMPLE_HEAD)
    for heading in ("value", "target", "predicted", f"realized ± {100 * settings.confidence:.0f} %"):
        table.add_column(heading, justify="left" if heading == "value" else "right", overflow="fold")
    ids = found["prompt_id"].to_numpy()
    for name, predicted in solution.realized.items():
        target, level = solution.targets.get(name), mean_over_prompts(found[name].to_numpy(float), ids, settings)
        half = max(level.high - level.mean, level.mean - level.low)
        asked = "free" if target is None else f"{target:.3f}"
        table.add_row(escape(name), asked, f"{predicted:.3f}", f"{level.mean:.3f} ± {half:.3f}")
    console.print(table)
    ess, candidates = found["ess"], found["candidates"].mean()
    about = "about" if choose is Choose.rejection else "at most"
    console.print(
        f"Of {candidates:.1f} candidates per response {ess.median():.1f} are effective for the median prompt and "
        f"{ess.min():.1f} for the worst; KL to the base policy {about} {found['kl'].mean():.3f} nats "
        f"({solution.kl:.3f} predicted).",
        soft_wrap=True,
    )


# ---------------------------------------------------------------------- files


def write_report(
    summary: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    pictures: Mapping[str, str],
    explanation: str,
    record: Mapping[str, Any],
    run: Path,
) -> None:
    """run/report.html, report.md and report.csv.

    summary: of `summarize` with the run's own facts. tables: responses by policy. pictures: captions by name of a file
    in figures/. explanation: of the solution. record: config.json. All texts of models are escaped; the page loads
    nothing and runs no script.
    """
    write_text(run / "report.html", report_html(summary, tables, pictures, explanation, record, run))
    write_text(run / "report.md", report_markdown(summary))
    frame = policy_frame(summary["policies"])
    write_atomically(run / "report.csv", lambda temporary: frame.to_csv(temporary, index=False))


def report_html(
    summary: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    pictures: Mapping[str, str],
    explanation: str,
    record: Mapping[str, Any],
    run: Path,
) -> str:
    """The page, from report.html.jinja."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": _number, "estimate": _estimate, "inert": inert}
    drawn = [{"caption": caption, "data": _base64(run / FIGURES / f"{name}.svg")} for name, caption in pictures.items()]
    return environment.get_template("report.html.jinja").render(
        title=f"{record['config']['model']['path']} at the palette {record['config']['palette']['name']}",
        verdict=verdict(summary),
        summary=summary,
        explanation=explanation.splitlines(),
        pictures=drawn,
        samples=side_by_side(tables, list(summary["values"])),
        command=record["command"],
        aims=aims_at_the_palette(summary),
        config=CONTROL.sub("", json.dumps(record["config"], indent=2)),
        versions=record["versions"],
    )


def verdict(summary: Mapping[str, Any]) -> str:
    """The promise in one sentence."""
    judged = {name: value["met"] for name, value in summary["values"].items() if value["met"] is not None}
    if not judged:
        return "No target can be judged: the scores of every value with one are constant."
    missed = [name for name, met in judged.items() if not met]
    tolerance, prompts = f"{summary['tolerance_sd']:g} sd", f"{summary['prompts']} held-out prompts"
    if not missed:
        return f"Every target is met within {tolerance} on {prompts}: {', '.join(judged)}."
    return (
        f"{len(missed)} of {len(judged)} targets are missed by more than {tolerance} on {prompts}: {', '.join(missed)}."
    )


def side_by_side(tables: Mapping[str, pd.DataFrame], values: list[str]) -> list[dict[str, Any]]:
    """The first response of every policy to the first prompts, with its scores; the policy that was trained first."""
    ordered = sorted(tables, key=lambda name: (name != TUNED, list(tables).index(name)))
    first = {name: tables[name].drop_duplicates("prompt_id").set_index("prompt_id") for name in ordered}
    samples = []
    for prompt in first[TUNED].index[:SAMPLES]:
        rows = [
            {"policy": name, "response": row["response"] or "", "scores": [float(row[value]) for value in values]}
            for name, row in ((name, first[name].loc[prompt]) for name in ordered if prompt in first[name].index)
        ]
        samples.append({"prompt": first[TUNED].loc[prompt, "prompt"], "rows": rows})
    return samples


def report_markdown(summary: Mapping[str, Any]) -> str:
    """The closing table and all policies, for readers without a browser."""
    console = Console(width=160, color_system=None, record=True, file=StringIO())
    print_closing(summary, console)
    frame = policy_frame(summary["policies"])
    head = "| " + " | ".join(frame.columns) + " |\n|" + "---|" * len(frame.columns)
    cells = (
        " | ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in row) for row in frame.itertuples(index=False)
    )
    policies = "\n".join(f"| {row} |" for row in cells)
    return f"# Promised against realized\n\n```\n{console.export_text()}```\n\n## All policies\n\n{head}\n{policies}\n"


def policy_frame(policies: Mapping[str, Any]) -> pd.DataFrame:
    """One row per policy and value: level and win rate with intervals, and the policy's own numbers."""
    rows = []
    for name, found in policies.items():
        for value, level in found["levels"].items():
            wins, kl = found["win_rate"][value], found["kl"]
            row = {"policy": name, "value": value, "level": level["mean"], "low": level["low"], "high": level["high"]}
            row |= {"win_rate": wins["mean"], "win_rate_low": wins["low"], "win_rate_high": wins["high"]}
            row |= {"kl": kl["mean"], "kl_low": kl["low"], "kl_high": kl["high"], "tokens": found["tokens"]["mean"]}
            row |= {"distinct_2": found["distinct_2"]["mean"], "truncated": found["truncated"]["mean"]}
            rows.append(row | {"responses": found["responses"]})
    return pd.DataFrame(rows)


def inert(text: str) -> str:
    """At most LONGEST characters, and none that a page may not hold; jinja escapes the rest."""
    shown = text if len(text) <= LONGEST else text[:LONGEST] + " …"
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", shown)


def _number(number: float) -> str:
    return f"{number:.4g}"


def _estimate(estimate: Mapping[str, float]) -> str:
    half = max(estimate["high"] - estimate["mean"], estimate["mean"] - estimate["low"])
    return f"{estimate['mean']:.3f} ± {half:.3f}"


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
