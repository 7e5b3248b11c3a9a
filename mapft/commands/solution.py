"""`mapft solve`: the solution as a table and sentences, or as JSON."""

import json
from typing import Any

from mapft.palette import (
    Palette,
    Uncertainty,
    adjust,
    adjustment_table,
    analyse,
    bootstrap,
    explain,
    solution_table,
)
from mapft.pipeline.run import Run
from mapft.utils.errors import UserError
from mapft.utils.terminal import print_table


def print_solution(run: Run) -> None:
    """Table, intervals and explanation of the solution, and the adjustment of an infeasible palette."""
    matrix, record, solution = run.matrix, run.solution_record, run.solution
    with run.console.status("resampling the prompts for intervals"):
        uncertainty, problem = _intervals(run)
    if record.adjusted:
        floor = run.config.dual.floor_ess
        nearest = adjust(matrix, Palette(record.requested), floor_ess=floor, estimator=solution.estimator)
        run.console.print("The requested palette is infeasible; this is the nearest feasible one.")
        print_table(run.console, **adjustment_table(matrix, nearest))
    print_table(run.console, **solution_table(matrix, solution, uncertainty))
    run.console.print(explain(matrix, solution, uncertainty), soft_wrap=True)
    if problem:
        run.console.print(problem, soft_wrap=True)


def print_solution_json(run: Run) -> None:
    """The solution with its analysis and intervals, and the palette that was requested."""
    record, solution = run.solution_record, run.solution
    uncertainty, _ = _intervals(run)
    more: dict[str, Any] = {"analysis": analyse(run.matrix, solution).to_dict(), "requested": record.requested}
    more |= {"adjusted": record.adjusted, "intervals": uncertainty and uncertainty.to_dict()}
    print(json.dumps(solution.to_dict() | more, indent=2))


def _intervals(run: Run) -> tuple[Uncertainty | None, str]:
    """Bootstrap intervals, or the reason why there are none."""
    try:
        return bootstrap(run.matrix, run.solution), ""
    except UserError as error:
        return None, f"No intervals: {error}"
