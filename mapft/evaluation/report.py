"""The closing table: promised against realized."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


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
    for name, row in summary["values"].items():
        real = row["realized"]
        lam, refined = f"{row['lam']:#.3g}", f"{summary['lam'][name]:#.3g}"
        half = max(real["high"] - real["mean"], real["mean"] - real["low"])
        table.add_row(
            name,
            f"{row['base']:.3f}",
            "free" if row["target"] is None else f"{row['target']:.3f}",
            lam if refined == lam else f"{lam}→{refined}",
            f"{row['predicted']:.3f}",
            f"{real['mean']:.3f} ± {half:.3f}",
            "" if row["gap_sd"] is None else f"{row['gap_sd']:+.3f}",
            "" if row["met"] is None else ("yes" if row["met"] else "no"),
        )
    return table


def print_closing(summary: Mapping[str, Any], console: Console) -> None:
    """The table, the cost in nats, and where the adapter is."""
    console.print(closing_table(summary))
    kl = summary["kl"]
    console.print(
        f"KL to the base policy: {summary['kl_predicted']:.3f} nats predicted, {kl['mean']:.3f} "
        f"[{kl['low']:.3f}, {kl['high']:.3f}] measured."
    )
    if summary["adjusted"]:
        console.print("The palette asked for is out of reach; these are the nearest attainable targets.")
    if summary["stages"]:
        skipped = sum(stage["skipped"] for stage in summary["stages"])
        console.print(f"{len(summary['stages'])} stages, {skipped} of them skipped: {summary['end']}", soft_wrap=True)
    console.print(f"Adapter: {summary['adapter']}", soft_wrap=True)


def write_markdown(summary: Mapping[str, Any], path: Path) -> None:
    """report.md: the closing table for readers without a terminal."""
    with path.open("w", encoding="utf-8") as file:
        console = Console(file=file, width=160, color_system=None)
        file.write("# Promised against realized\n\n```\n")
        print_closing(summary, console)
        file.write("```\n")
