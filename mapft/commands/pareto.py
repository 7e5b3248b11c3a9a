"""The runs of a sweep in one table, csv file and figure: targets, realized levels and KL of every palette."""

import argparse
from pathlib import Path
from typing import Any

from mapft.utils.errors import UserError

PRICE_HEADINGS = ("KL predicted", "KL measured", "all met")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder of the runs."""
    parser.add_argument("folder", type=Path, help="folder of run folders (output=)")


def main(arguments: argparse.Namespace) -> None:
    """Print the table."""
    from mapft.utils.terminal import make_console, print_table

    console = make_console()
    print_table(console, **pareto(arguments.folder), title="Level minus target in sd")
    console.print(f"Page: {arguments.folder / 'pareto.html'}", soft_wrap=True)


def pareto(folder: Path) -> dict[str, Any]:
    """folder/pareto.html, .md, .csv, .svg and .png from every run in the folder that has been evaluated.

    Returns headings and rows for the terminal. Raises UserError for a folder without such runs, and for runs with
    different values.
    """
    import pandas as pd

    from mapft.config.run_folder import RunFolder
    from mapft.pipeline.artifacts import read_evaluation
    from mapft.pipeline.index import write_index
    from mapft.utils.files import write_atomically, write_text

    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the one that contains the runs.")
    runs = [RunFolder(path.parent) for path in sorted(folder.glob(f"*/{RunFolder(folder).evaluation.name}"))]
    if not runs:
        raise UserError(f"{folder} contains no run that has been evaluated; `mapft run` writes them to output=.")
    evaluations = {run: read_evaluation(run) for run in runs}
    values = {tuple(sorted(evaluation.values)) for evaluation in evaluations.values()}
    if len(values) > 1:
        lists = "; ".join(map(", ".join, sorted(values)))
        raise UserError(
            f"The runs in {folder} score different values ({lists}); summarize a folder "
            "whose runs have the same values."
        )
    evaluations = dict(sorted(evaluations.items(), key=lambda item: item[1].kl_predicted))
    table = pd.DataFrame([_row(run, each) for run, each in evaluations.items()])
    write_atomically(folder / "pareto.csv", lambda temporary: table.to_csv(temporary, index=False))
    write_text(folder / "pareto.md", _markdown(table))
    _write_page(evaluations, folder)
    write_index(folder)
    labels = _labels(evaluations)
    rows = []
    for run, each in evaluations.items():
        gaps = [value.gap_text for value in each.values.values()]
        rows.append([labels[run], *gaps, f"{each.kl_predicted:.3f}", f"{each.tuned.kl.mean:.3f}", _met_text(each)])
    return {"headings": ["palette", *next(iter(evaluations.values())).values, *PRICE_HEADINGS], "rows": rows}


def _row(run: Any, evaluation: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.path.name, "palette": _palette_name(run)}
    for name, value in evaluation.values.items():
        row |= {f"{name}_target": value.target, f"{name}_predicted": value.predicted, name: value.realized.mean}
        row |= {f"{name}_low": value.realized.low, f"{name}_high": value.realized.high}
    kl = evaluation.tuned.kl
    return row | {"kl_predicted": evaluation.kl_predicted, "kl": kl.mean, "kl_low": kl.low, "kl_high": kl.high}


def _markdown(table: Any) -> str:
    import pandas as pd

    values = [name.removesuffix("_target") for name in table.columns if name.endswith("_target")]
    rows = []
    for row in table.to_dict("records"):
        cells = {"palette": row["palette"]}
        for name in values:
            target = row[f"{name}_target"]
            shown = "free" if target is None or pd.isna(target) else f"{target:.3f}"
            cells[f"{name}: target, realized"] = f"{shown}, {row[name]:.3f}"
        cells["KL predicted, measured"] = f"{row['kl_predicted']:.3f}, {row['kl']:.3f}"
        rows.append(cells | {"run": row["run"]})
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True) + "\n"


def _write_page(evaluations: dict[Any, Any], folder: Path) -> None:
    """pareto.html: gaps and KL of every run, its palette and levels in pairs, and a table with the reports."""
    from mapft.evaluation.figures import save_both
    from mapft.evaluation.page import Section, figure, interval, link, mark, write_page
    from mapft.evaluation.row_figures import Row, contenders, gaps_sd

    labels, tolerance = _labels(evaluations), next(iter(evaluations.values())).tolerance_sd
    rows, cells = [], []
    for run, each in evaluations.items():
        sd = {name: value.sd for name, value in each.values.items()}
        gaps = gaps_sd(each.tuned.levels, each.solution.targets, sd)
        rows.append(Row(labels[run], gaps, each.tuned.kl, each.all_met))
        report = run.report("html")
        name = link(labels[run], report.relative_to(folder)) if report.exists() else labels[run]
        shown = [value.gap_text for value in each.values.values()]
        ratio = interval(each.price_ratio, 2) if each.price_ratio else ""
        cells.append([name, *shown, f"{each.kl_predicted:.3f}", interval(each.tuned.kl), ratio, mark(each.all_met)])
    plot_levels = _levels(evaluations)
    save_both(lambda wide: contenders(rows, tolerance, "run", wide), folder, "gaps")
    save_both(plot_levels, folder, "pareto")
    headings = [
        "palette",
        *next(iter(evaluations.values())).values,
        "KL predicted",
        "KL measured",
        "price ratio",
        "met",
    ]
    parts = [
        Section(
            "gaps",
            "Gap and price",
            "A run meets its palette if its smallest gap is in the shaded part.",
            [figure(folder, "gaps", "Gaps to the targets and KL of every run, with intervals.")],
        ),
        Section(
            "levels",
            "Levels in pairs",
            "Every run, and its palette as a cross.",
            [figure(folder, "pareto", "Realized levels of every run, the palettes, and the front at the KL of each.")],
        ),
        Section("runs", "All runs", "Level minus target in sd, and KL in nats.", [], headings, cells),
    ]
    met = sum(row.met for row in rows)
    kls = [row.kl.mean for row in rows]
    write_page(
        folder / "pareto.html",
        "overview",
        title=f"{folder.resolve().name}: runs in comparison",
        answer=f"{met} of {len(rows)} runs meet every target of their palette, at {min(kls):.2f} to {max(kls):.2f} "
        "nats of KL from the base policy.",
        lede="Every run asks the same model for other levels. Levels are measured on prompts that the run was not "
        "trained on; sd is the standard deviation of the base scores. KL is the change from the base policy.",
        notices=[],
        sections=[(part.anchor, part.title) for part in parts],
        parts=parts,
    )


def _levels(evaluations: dict[Any, Any]) -> Any:
    """Realized levels of all runs, their palettes, and the front at each one's KL, where the runs share one pilot."""
    from mapft.config.identity import fingerprint
    from mapft.evaluation.figures import front, front_levels
    from mapft.palette import ScoreMatrix

    first, *_ = evaluations
    labels = _labels(evaluations)
    points = {"base": evaluations[first].base} | {labels[run]: each.tuned for run, each in evaluations.items()}
    solutions = [evaluation.solution for evaluation in evaluations.values()]
    widest = max(solutions, key=lambda solution: len(solution.targets))
    one_pilot = len({fingerprint(_pilot_identity(run)) for run in evaluations}) == 1
    kls = sorted({round(solution.kl, 4) for solution in solutions if solution.kl > 0}) if one_pilot else []
    curves = front_levels(ScoreMatrix.from_parquet(first.scores), widest, kls)
    palettes = [solution.targets for solution in solutions]
    return lambda wide: front(widest, points, curves, palettes, wide=wide)


def _labels(evaluations: dict[Any, Any]) -> dict[Any, str]:
    """The palette's name, with the hash of the run where several runs have it."""
    names = [_palette_name(run) for run in evaluations]
    return {
        run: name if names.count(name) == 1 else f"{name} {run.path.name[-12:]}"
        for run, name in zip(evaluations, names, strict=True)
    }


def _met_text(evaluation: Any) -> str:
    return "yes" if evaluation.all_met else "no"


def _palette_name(run: Any) -> str:
    from mapft.pipeline.artifacts import read_run_record

    return str(read_run_record(run).config["palette"]["name"])


def _pilot_identity(run: Any) -> dict[str, Any]:
    """What the scores of a run depend on."""
    from mapft.pipeline.artifacts import read_run_record

    record = read_run_record(run).identity
    return {part: record.get(part) for part in ("model", "data", "sampling", "engine", "rewards", "seed", "files")}
