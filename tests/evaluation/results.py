"""Evaluations and tables of responses for the tests of this folder."""

import pandas as pd

from mapft.evaluation.result import Estimate, Evaluation, PolicyResult, ValueResult
from mapft.palette import Palette, ScoreMatrix, solve_dual


def responses(prompt_ids, **columns) -> pd.DataFrame:
    """A table of responses as the stage `evaluate` makes it; columns that are not given have constant content."""
    rows = len(prompt_ids)
    constant = {"prompt": [f"prompt {i}" for i in prompt_ids], "response": ["a b a b"] * rows, "tokens": [4] * rows}
    constant |= {"finished": [True] * rows, "kl": [0.0] * rows}
    return pd.DataFrame({"prompt_id": prompt_ids, **constant, **columns})


def policy_result(levels: dict[str, Estimate]) -> PolicyResult:
    kl, one = Estimate(0.2, 0.1, 0.3), Estimate(1.0, 1.0, 1.0)
    return PolicyResult(levels, dict.fromkeys(levels, one), kl, one, one, one, 10)


def value_result(**changes) -> ValueResult:
    """A value with target 1.5 that is met at 1.48 within 0.1 sd."""
    fields = {"base": 0.0, "target": 1.5, "lam": 0.5, "predicted": 1.5, "realized": Estimate(1.48, 1.4, 1.6)}
    return ValueResult(**fields | {"sd": 1.0, "gap_sd": -0.02, "met": True} | changes)


def evaluation(values: dict[str, ValueResult], **changes) -> Evaluation:
    """An evaluation of the base and the tuned policy with these values; its solution is that of a toy pilot."""
    rows = range(len(values) + 1)
    pilot = ScoreMatrix([[float(row == n) for n in range(len(values))] for row in rows], list(values), rows)
    solution = solve_dual(pilot, Palette({next(iter(values)): 0.6}), estimator="pooled")
    base = policy_result({name: Estimate(value.base, value.base, value.base) for name, value in values.items()})
    tuned = policy_result({name: value.realized for name, value in values.items()})
    fields = {"values": values, "policies": {"base": base, "tuned": tuned}, "solution": solution, "prompts": 7}
    fields |= {"confidence": 0.95, "tolerance_sd": 0.1, "mode": "simultaneous", "aims_at_palette": True}
    fields |= {"lam": {name: value.lam for name, value in values.items()}, "lam_error": {}, "scored": 8192}
    fields |= {"adjusted": False, "requested": {}}
    fields |= {"targets_from": {}, "adapter": "adapter", "visits": [], "end": ""}
    return Evaluation(**fields | changes)
