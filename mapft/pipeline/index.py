"""runs.html: all runs of a folder, how far each is, and what it reached."""

from pathlib import Path

from mapft.config.run_folder import RunFolder
from mapft.pipeline.artifacts import read_evaluation, read_run_record
from mapft.utils.errors import UserError
from mapft.utils.files import write_text


def write_index(folder: Path) -> Path:
    """folder/runs.html, which is not touched where nothing has changed."""
    from mapft.evaluation.page import Section, render

    runs = [RunFolder(path.parent) for path in sorted(folder.glob(f"*/{RunFolder(folder).config.name}"))]
    rows = [_row(run, folder) for run in runs]
    evaluated = [run for run in runs if run.evaluation.exists()]
    headings = ["run", "palette", "mode", "state", "targets met", "KL (nats)", "price ratio", "seed"]
    text = "The command that started a run continues it where it is not evaluated yet."
    page = render(
        "overview",
        title=f"Runs in {folder.resolve().name}",
        answer=f"{len(runs)} run{'s' * (len(runs) != 1)}, {len(evaluated)} of them evaluated.",
        lede="Every run is one palette of one model. KL is the change from the base policy; the price ratio compares "
        "it with the least KL that has the realized levels.",
        notices=[],
        sections=[],
        parts=[Section("runs", "All runs", text, [], headings, rows)],
    )
    path = folder / "runs.html"
    return path if path.exists() and path.read_text("utf-8") == page else write_text(path, page)


def _row(run: RunFolder, folder: Path) -> list[str]:
    """The cells of a run; one whose files are invalid says so."""
    from mapft.evaluation.page import interval, link

    name = run.path.name
    try:
        config = read_run_record(run).config
        facts = [str(config["palette"]["name"]), str(config["mode"]["name"])]
        if not run.evaluation.exists():
            return [name, *facts, _state(run), "", "", "", str(config["seed"])]
        evaluation = read_evaluation(run)
    except (UserError, KeyError, TypeError):
        return [name, "", "", "invalid", "", "", "", ""]
    marks = [value.met for value in evaluation.values.values() if value.met is not None]
    ratio = interval(evaluation.price_ratio, 2) if evaluation.price_ratio else ""
    report = run.report("html")
    return [
        link(name, report.relative_to(folder)) if report.exists() else name,
        *facts,
        "evaluated",
        f"{sum(marks)} of {len(marks)}",
        interval(evaluation.tuned.kl, 2),
        ratio,
        str(config["seed"]),
    ]


def _state(run: RunFolder) -> str:
    """The last stage that is complete."""
    stages = {"trained": run.training, "solved": run.solution, "scored": run.scores, "sampled": run.samples}
    return next((state for state, artifact in stages.items() if artifact.exists()), "started")
