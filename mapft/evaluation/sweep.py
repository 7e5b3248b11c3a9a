"""The runs of a sweep beside each other: what each palette promised, what it realized, what it cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mapft.config import fingerprint
from mapft.errors import UserError
from mapft.palette import DualSolution, RewardMatrix
from mapft.sampling.store import read_json, write_atomically, write_text


def pareto(words: Sequence[str]) -> str:
    """FOLDER/pareto.md, .csv, .svg and .png from every run in FOLDER that has been evaluated; returns the table.

    Raises UserError for a folder that holds none, and for runs with different values.
    """
    if len(words) != 1:
        raise UserError(f"mapft pareto was given {' '.join(words) or 'nothing'}; name the folder that holds the runs.")
    if not Path(words[0]).is_dir():
        raise UserError(f"{words[0]} is no folder; name the one that holds the runs.")
    folder = Path(words[0])
    found = {path.parent: read_json(path) for path in sorted(folder.glob("*/evaluation.json"))}
    if not found:
        raise UserError(f"{folder} holds no run that has been evaluated; `mapft run` leaves them in output=.")
    values = {tuple(sorted(summary["values"])) for summary in found.values()}
    if len(values) > 1:
        raise UserError(f"The runs in {folder} score different values ({'; '.join(map(', '.join, sorted(values)))}).")
    table = pd.DataFrame([_row(run, summary) for run, summary in found.items()]).sort_values("kl_predicted")
    write_atomically(folder / "pareto.csv", lambda temporary: table.to_csv(temporary, index=False))
    text = _markdown(table)
    write_text(folder / "pareto.md", text)
    _draw(found, folder)
    return text


def _row(run: Path, summary: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.name, "palette": read_json(run / "config.json")["config"]["palette"]["name"]}
    for name, value in summary["values"].items():
        realized = value["realized"]
        row |= {f"{name}_target": value["target"], f"{name}_predicted": value["predicted"], name: realized["mean"]}
        row |= {f"{name}_low": realized["low"], f"{name}_high": realized["high"]}
    kl = summary["kl"]
    return row | {"kl_predicted": summary["kl_predicted"], "kl": kl["mean"], "kl_low": kl["low"], "kl_high": kl["high"]}


def _markdown(table: pd.DataFrame) -> str:
    values = [name.removesuffix("_target") for name in table.columns if name.endswith("_target")]
    lines = [f"| palette | {' | '.join(f'{v}: target, realized' for v in values)} | KL predicted, measured | run |"]
    lines.append("|" + "---|" * (len(values) + 3))
    for row in table.to_dict("records"):
        levels = (f"{_or_free(row[f'{v}_target'])}, {row[v]:.3f}" for v in values)
        lines.append(
            f"| {row['palette']} | {' | '.join(levels)} | {row['kl_predicted']:.3f}, {row['kl']:.3f} | {row['run']} |"
        )
    return "\n".join(lines) + "\n"


def _or_free(target: float | None) -> str:
    return "free" if target is None or pd.isna(target) else f"{target:.3f}"


def _draw(found: dict[Path, dict[str, Any]], folder: Path) -> None:
    from mapft.evaluation import pictures

    first, *_ = found
    matrix = RewardMatrix.from_parquet(first / "scores.parquet")
    solutions = {run: DualSolution.from_dict(summary["solution"]) for run, summary in found.items()}
    palettes = {run: read_json(run / "config.json")["config"]["palette"]["name"] for run in found}
    alone = [name for name in palettes.values() if list(palettes.values()).count(name) == 1]
    named = {run: name if name in alone else f"{name} {run.name[-12:]}" for run, name in palettes.items()}
    points = {named[run]: summary["policies"]["tuned"] for run, summary in found.items()}
    points = {"base": found[first]["policies"]["base"]} | points
    asked = [solution.targets for solution in solutions.values()]
    widest = max(solutions.values(), key=lambda solution: len(solution.targets))
    one_pilot = len({fingerprint(*_pilot(run)) for run in found}) == 1  # a front is of one base policy's samples
    kls = sorted({round(solution.kl, 4) for solution in solutions.values() if solution.kl > 0}) if one_pilot else []
    figure = pictures.front(matrix, widest, {"policies": points}, kls, asked)
    pictures.save(figure, folder, "pareto")


def _pilot(run: Path) -> list[Any]:
    """The settings that a run's scores depend on."""
    config = read_json(run / "config.json")["config"]
    return [config[part] for part in ("model", "data", "sampling", "rewards", "seed")]
