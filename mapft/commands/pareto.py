"""The runs of a sweep in one table, csv file and figure: targets, realized levels and KL of every palette."""

import argparse
from pathlib import Path
from typing import Any

from mapft.utils.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder of the runs."""
    parser.add_argument("folder", type=Path, help="folder of run folders (output=)")


def main(arguments: argparse.Namespace) -> None:
    """Print the table."""
    print(pareto(arguments.folder))


def pareto(folder: Path) -> str:
    """folder/pareto.md, .csv, .svg and .png from every run in the folder that has been evaluated; returns the table.

    Raises UserError for a folder without such runs, and for runs with different values.
    """
    import pandas as pd

    from mapft.config.run_folder import RunFolder
    from mapft.pipeline.artifacts import read_evaluation
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
    table = pd.DataFrame([_row(run, each) for run, each in evaluations.items()]).sort_values("kl_predicted")
    write_atomically(folder / "pareto.csv", lambda temporary: table.to_csv(temporary, index=False))
    text = _markdown(table)
    write_text(folder / "pareto.md", text)
    _figure(evaluations, folder)
    return text


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


def _figure(evaluations: dict[Any, Any], folder: Path) -> None:
    """Realized levels of all runs, their palettes, and the front at each one's KL, where the runs share one pilot."""
    from mapft.config.identity import fingerprint
    from mapft.evaluation.figures import front
    from mapft.evaluation.style import save
    from mapft.palette import ScoreMatrix

    first, *_ = evaluations
    names = [_palette_name(run) for run in evaluations]
    labels = {
        run: name if names.count(name) == 1 else f"{name} {run.path.name[-12:]}"
        for run, name in zip(evaluations, names, strict=True)
    }
    points = {"base": evaluations[first].base} | {labels[run]: each.tuned for run, each in evaluations.items()}
    solutions = [evaluation.solution for evaluation in evaluations.values()]
    widest = max(solutions, key=lambda solution: len(solution.targets))
    one_pilot = len({fingerprint(_pilot_identity(run)) for run in evaluations}) == 1
    kls = sorted({round(solution.kl, 4) for solution in solutions if solution.kl > 0}) if one_pilot else []
    palettes = [solution.targets for solution in solutions]
    save(front(ScoreMatrix.from_parquet(first.scores), widest, points, kls, palettes), folder, "pareto")


def _palette_name(run: Any) -> str:
    from mapft.pipeline.artifacts import read_run_record

    return str(read_run_record(run).config["palette"]["name"])


def _pilot_identity(run: Any) -> dict[str, Any]:
    """What the scores of a run depend on."""
    from mapft.pipeline.artifacts import read_run_record

    record = read_run_record(run).identity
    return {part: record[part] for part in ("model", "data", "sampling", "rewards", "seed", "files")}
