"""What a run reached and what it cost: the closing table, the answer, and the three questions below the table."""

from dataclasses import dataclass

import pandas as pd
from rich.console import Console
from scipy.stats import norm

from mapft.config import BASE, TUNED, Choose, EvaluationConfig
from mapft.evaluation.levels import mean_over_prompts
from mapft.evaluation.page import estimate, interval
from mapft.evaluation.result import Evaluation
from mapft.palette import DualSolution
from mapft.utils.terminal import NO_BREAK, print_table

CONVERGED = 0.05  # nats: for roughly Gaussian scores, a level is then off by at most sqrt(2 * .05) = .3 sd
ADJUSTED = "The requested palette is infeasible; these are the targets of the nearest feasible one."


def print_closing(evaluation: Evaluation, console: Console) -> None:
    """Predicted and realized levels, the KL, the other policies, and where the adapter is."""
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
                estimate(value.realized),
                "" if value.gap_sd is None else f"{value.gap_sd:+.3f}",
                "" if value.met is None else ("yes" if value.met else "no"),
            ]
        )
    return headings, rows


def closing_sentences(evaluation: Evaluation) -> list[str]:
    """What stands below the table."""
    sentences = [*kl_sentences(evaluation), *policy_sentences(evaluation)]
    if evaluation.adjusted:
        sentences.append(ADJUSTED)
    if evaluation.visits:
        skipped = sum(visit["skipped"] for visit in evaluation.visits)
        sentences.append(f"{len(evaluation.visits)} visits, {skipped} of them skipped: {evaluation.end}")
    return [*sentences, f"Adapter: {evaluation.adapter}"]


def policy_sentences(evaluation: Evaluation) -> list[str]:
    """Gaps and KL of every policy beside base and tuned, and how much more that is than its levels need."""
    sentences = []
    for name, policy in evaluation.policies.items():
        if name in (BASE, TUNED):
            continue
        gaps = [
            f"{value} {(policy.levels[value].mean - result.target) / result.sd:+.3f}"
            for value, result in evaluation.values.items()
            if result.target is not None and result.sd > 0
        ]
        kl = f"at most {policy.kl.mean:.3f}" if policy.kl_is_bound else interval(policy.kl)
        price = f", price ratio {interval(policy.price_ratio, digits=2)}" if policy.price_ratio else ""
        sentences.append(f"{name}: gaps {', '.join(gaps)} sd, KL {kl} nats{price}.")
    return sentences


def kl_sentences(evaluation: Evaluation) -> list[str]:
    """The KL to the base policy, what part of it the levels need, and the KL to p_lam."""
    first, *price = cost_sentences(evaluation)
    return [first, *_baseline_sentences(evaluation), *lambda_sentences(evaluation), *price, *_kl_to_target(evaluation)]


def cost_sentences(evaluation: Evaluation) -> list[str]:
    """The KL to the base policy, and its ratio to the least KL."""
    kl = interval(evaluation.tuned.kl)
    predicted = f"{evaluation.kl_predicted:.3f} nats predicted, {kl} measured"
    sentences = [f"KL to the base policy: {predicted if evaluation.aims_at_palette else f'{kl} nats measured'}."]
    if evaluation.price_ratio:
        ratio = interval(evaluation.price_ratio, digits=2)
        sentences.append(f"Price ratio: {ratio} times the least KL that has the realized levels.")
    return sentences + engine_sentences(evaluation)


def engine_sentences(evaluation: Evaluation) -> list[str]:
    """How exact the responses of an engine are."""
    if not evaluation.engine:
        return []
    kl, lost, bound = (evaluation.engine[name] for name in ("kl", "lost_mass", "level_bound"))
    return [
        f"The engine is {kl:.2g} nats per response from the policy; rejection loses a mass of {lost:.2g}, by which a "
        f"realized level of base and tuned policy is off by an estimated {bound:.2g} sd at most."
    ]


def lambda_sentences(evaluation: Evaluation) -> list[str]:
    """The standard error of lambda, where rollouts gave one."""
    errors = [f"{name} {error:.2g}" for name, error in evaluation.lam_error.items() if error]
    return [f"Standard error of the last estimate of lambda: {', '.join(errors)}."] if errors else []


def _baseline_sentences(evaluation: Evaluation) -> list[str]:
    if evaluation.aims_at_palette:
        return []
    return [f"mode={evaluation.mode} is a baseline: it does not aim at the targets."]


def _kl_to_target(evaluation: Evaluation) -> list[str]:
    """The KL to p_lam, and what would lower it."""
    distance = evaluation.kl_to_target
    if not distance or not evaluation.aims_at_palette:
        return []
    sentences = [f"KL to p_lam: {interval(distance)} nats."]
    if distance.low > CONVERGED:
        more = evaluation.scored * (distance.mean / CONVERGED - 1)
        sentences.append(
            f"The policy has not converged: its KL to p_lam is above {CONVERGED:g} nats, which takes at least "
            f"{float(f'{more:.2g}'):,.0f} more responses (the KL falls as 1/responses at best), or a larger adapter."
        )
    return sentences


# ---------------------------------------------------------------------- the answer, and three questions


def answer(evaluation: Evaluation) -> str:
    """One sentence: which targets are met, and at what price: the KL and, where it differs from 0, its ratio."""
    judged = {name: value.gap_sd for name, value in evaluation.values.items() if value.gap_sd is not None}
    missed = [name for name in judged if not evaluation.values[name].met]
    short = ", ".join(f"{name} is {-(judged[name] or 0.0):.2f} sd short" for name in missed)
    if not judged:
        reached = "No target can be judged, because the scores of every value with a target are constant"
    elif not missed:
        reached = "The target is met" if len(judged) == 1 else f"All {len(judged)} targets are met"
    elif len(missed) < len(judged):
        reached = f"{len(judged) - len(missed)} of {len(judged)} targets are met ({short})"
    else:
        reached = f"{'The target is' if len(judged) == 1 else 'All targets are'} missed ({short})"
    kl, ratio = evaluation.tuned.kl.mean, evaluation.price_ratio
    if ratio and ratio.low > 0:
        least = f"the least for these levels is {kl / ratio.mean:.2f} (price ratio {ratio.mean:.2f})"
        return f"{reached}, at a KL of {kl:.2f} nats from the base policy; {least}."
    return f"{reached}, at a KL of {kl:.2f} nats from the base policy."


@dataclass(frozen=True)
class Question:
    """A question of the closing table. good: None where the answer is neither good nor bad."""

    title: str
    answer: str
    sentences: list[str]
    good: bool | None = None


def questions(evaluation: Evaluation) -> list[Question]:
    """Is lambda known, has the policy converged, and what did it cost?"""
    return [_lambda_question(evaluation), _convergence_question(evaluation), _cost_question(evaluation)]


def _lambda_question(evaluation: Evaluation) -> Question:
    title, errors = "Is lambda known?", {name: error for name, error in evaluation.lam_error.items() if error}
    if not errors:
        return Question(title, "As the pilot has it", ["No rollouts of the training have corrected it."])
    z = norm.ppf((1 + evaluation.confidence) / 2)
    worst = max(z * error * evaluation.values[name].sd for name, error in errors.items())
    known = bool(worst <= evaluation.tolerance_sd)
    effect = (
        f"The {100 * evaluation.confidence:g} % interval of lambda moves a level by about {worst:.2f} sd at most; "
        f"known means up to {evaluation.tolerance_sd:g} sd."
    )
    return Question(title, "Yes" if known else "Not precisely", [effect, *lambda_sentences(evaluation)], known)


def _convergence_question(evaluation: Evaluation) -> Question:
    title, distance = "Has the policy converged?", evaluation.kl_to_target
    if not evaluation.aims_at_palette:
        return Question(title, "Does not apply", _baseline_sentences(evaluation))
    if not distance:
        return Question(title, "Not measured", ["This needs two or more responses to every held-out prompt."])
    rule = [f"Converged means a KL to p_lam of at most {CONVERGED:g} nats."]
    if distance.low > CONVERGED:
        return Question(title, "Not yet", _kl_to_target(evaluation), False)
    if distance.high > CONVERGED:
        return Question(title, "Within noise", _kl_to_target(evaluation) + rule)
    return Question(title, "Yes", _kl_to_target(evaluation) + rule, True)


def _cost_question(evaluation: Evaluation) -> Question:
    ratio = evaluation.price_ratio
    answer = f"{ratio.mean:.2f} × the least KL" if ratio else f"{evaluation.tuned.kl.mean:.2f} nats"
    scored = [f"{evaluation.scored:,} responses were scored in training, beyond the pilot's."]
    return Question("What did it cost?", answer, cost_sentences(evaluation) + scored)


# ---------------------------------------------------------------------- decoding


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
        table.append([name, "free" if target is None else f"{target:.3f}", f"{predicted:.3f}", estimate(level)])
    print_table(
        console,
        ["value", "target", "predicted", f"realized ±{NO_BREAK}{100 * settings.confidence:.0f}{NO_BREAK}%"],
        table,
        title=f"{len(answered)} responses to {answered['prompt_id'].nunique()} prompts",
    )
    ess, candidates = answered["ess"], answered["candidates"].mean()
    bound = "at most" if choose.kl_is_bound(int(answered.groupby("prompt_id").size().min())) else "about"
    console.print(
        f"Effective candidates: {ess.median():.1f} of {candidates:.1f} per response for the median prompt, "
        f"{ess.min():.1f} for the worst; KL to the base policy {bound} {answered['kl'].mean():.3f} nats "
        f"({solution.kl:.3f} predicted).",
        soft_wrap=True,
    )
