"""Stage `solve`: lambda for the palette -> solution.json, or the reason why the palette is infeasible."""

from collections.abc import Mapping

from mapft.config import EstimatorName, OnInfeasible, PaletteConfig
from mapft.palette import DualSolution, Estimator, Palette, ScoreMatrix, Status, adjust, solve_dual
from mapft.palette.targets import TARGETS
from mapft.pipeline.artifacts import SolutionRecord, write_solution
from mapft.pipeline.run import Run
from mapft.rewards import Score
from mapft.utils.errors import UserError

ESTIMATORS: dict[EstimatorName, Estimator | None] = {
    EstimatorName.auto: None,
    EstimatorName.centered: "centered",
    EstimatorName.pooled: "pooled",
    EstimatorName.per_prompt: "per_prompt",
}


def solve(run: Run) -> None:
    """Solve the dual on the pilot's scores; with dual.if_infeasible=nearest, of the nearest feasible palette.

    Raises UserError for an infeasible palette, with its margin and the nearest feasible one.
    """
    if run.is_main and not run.folder.solution.exists():
        write_solution(run.folder, _solved(run))
    run.wait_for(run.folder.solution)


def _solved(run: Run) -> SolutionRecord:
    matrix, dual = run.matrix, run.config.dual
    palette, estimator = make_palette(run.config.palette, matrix, run.scores), ESTIMATORS[dual.estimator]
    solution = solve_dual(matrix, palette, estimator=estimator)
    adjusted = solution.status is not Status.optimal
    if adjusted:
        nearest = adjust(matrix, palette, floor_ess=dual.floor_ess, estimator=estimator)
        if dual.if_infeasible is OnInfeasible.stop:
            raise UserError(_infeasible(solution, palette, nearest.new))
        solution = nearest.solution
    if solution.caution:
        run.tell(solution.caution)
    return SolutionRecord(matrix.base, matrix.sd, dict(palette.targets), adjusted, solution)


def make_palette(settings: PaletteConfig, matrix: ScoreMatrix, scores: Mapping[str, Score]) -> Palette:
    """The targets of the settings on the pilot's base scores.

    Raises UserError for a kind of target that does not fit a score's unit, and for a target beyond a score's bounds.
    """
    kinds = settings.kinds()
    for kind, numbers in kinds.items():
        unit = TARGETS[kind].score_unit
        wrong = [f"{name} ({scores[name].unit})" for name in numbers if not scores[name].unit.startswith(unit)]
        if wrong:
            raise UserError(
                f"palette.{kind} is for scores in {unit}, not for {', '.join(wrong)}; use quantiles, sd or absolute."
            )
    palette = Palette.of(matrix, **kinds)
    for name, target in palette.targets.items():
        low, high = scores[name].bounds
        if not low <= target <= high:
            raise UserError(
                f"The target of {name} is {target:.4g}, but its score is between {low:g} and {high:g}; choose one "
                "between them."
            )
    return palette


def _infeasible(solution: DualSolution, palette: Palette, nearest: Palette) -> str:
    changes = ", ".join(f"{name} {palette.targets[name]:.4g} -> {c:.4g}" for name, c in nearest.targets.items())
    return (
        f"{solution.status.sentence} Margin {solution.margin:.4f} sd; nearest feasible palette: {changes} "
        "(dual.if_infeasible=nearest uses it)."
    )
