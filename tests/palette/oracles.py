"""Known results and slow, independent solvers: the source of truth of the palette's tests.

Everything here is written from the formulas alone and shares no code with mapft.palette.

paper_scores.csv holds the six scores of 2312 samples of OPT-1.3B, one per prompt, from the repository of the paper,
https://github.com/wang8740/MAP (MIT licence, copyright 2024 Xinran Wang), with the value names as headings and the
number of each sample's prompt as `prompt_id`.

Legend: N rows, P prompts, V values; raw units throughout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.optimize import linprog, minimize
from scipy.special import logsumexp

PAPER_SCORES = Path(__file__).with_name("paper_scores.csv")

# mapft/palette/README.md, "Reference numbers", estimator pooled: targets of humor, helpful, harmless, margin (sd),
# their lam, ESS (rows), KL (nats). The targets of diversity, coherence and perplexity are their means, their lam is 0.
PAPER_ROWS = {
    "hhh_50": ((2.460, -1.471, 0.354), 0.1326, (2.543, 0.240, 0.284), 1750.4, 0.210),
    "hhh_60": ((2.492, -1.278, 0.675), 0.0986, (6.301, 0.838, 0.933), 829.3, 0.639),
    "hhh_70": ((2.513, -0.967, 0.937), 0.0732, (12.759, 1.530, 1.692), 194.5, 1.538),
    "hhh_80": ((2.534, -0.613, 1.268), 0.0410, (29.700, 2.586, 3.055), 23.7, 3.423),
}


def prompts_of(ids_N):
    """Row numbers of each prompt, in a list."""
    return [np.flatnonzero(ids_N == prompt) for prompt in np.unique(ids_N)]


def deviations(scores_NV, ids_N):
    """d = (r - prompt mean) * sqrt(K / (K - 1)), prompt by prompt."""
    d_NV = np.empty_like(scores_NV)
    for rows in prompts_of(ids_N):
        d_NV[rows] = (scores_NV[rows] - scores_NV[rows].mean(axis=0)) * np.sqrt(len(rows) / (len(rows) - 1))
    return d_NV


def log_partition(lam_V, scores_NV, ids_N, estimator):
    """E_x log Z by the formulas of mapft/palette/README.md, "Three estimators"; the weight of a prompt is K_x / N."""
    rows = len(scores_NV)
    if estimator == "pooled":
        return logsumexp(scores_NV @ lam_V) - np.log(rows)
    if estimator == "centered":
        return lam_V @ scores_NV.mean(axis=0) + logsumexp(deviations(scores_NV, ids_N) @ lam_V) - np.log(rows)
    return sum(len(k) / rows * (logsumexp(scores_NV[k] @ lam_V) - np.log(len(k))) for k in prompts_of(ids_N))


def gradient(function, point_V, step=1e-5):
    """Central differences."""
    steps = step * np.eye(len(point_V))
    return np.array([(function(point_V + h) - function(point_V - h)) / (2 * step) for h in steps])


def dual_by_general_solver(scores_NV, ids_N, targets_V, estimator):
    """argmax of the dual by L-BFGS-B with numerical gradients from the formulas, in standardised units."""
    base_V, sd_V = scores_NV.mean(axis=0), scores_NV.std(axis=0)
    z_NV, c_V = (scores_NV - base_V) / sd_V, (targets_V - base_V) / sd_V

    def loss(lam_V):
        return log_partition(lam_V, z_NV, ids_N, estimator) - lam_V @ c_V

    result = minimize(
        loss,
        np.full(len(c_V), 0.5),
        jac=lambda lam_V: gradient(loss, lam_V),
        bounds=[(0, None)] * len(c_V),
        method="L-BFGS-B",
        options={"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-10},
    )
    return result.x / sd_V


def full_margin(scores_NV, ids_N, targets_V, estimator, free_V=None):
    """Margin t* (sd) by one linear program with every row as a column and every simplex as an equation."""
    sd_V = scores_NV.std(axis=0)
    points_NV = scores_NV
    if estimator == "centered":
        points_NV = scores_NV.mean(axis=0) + deviations(scores_NV, ids_N)
    rows, values = points_NV.shape
    simplices = prompts_of(ids_N) if estimator == "per_prompt" else [np.arange(rows)]
    equations = np.zeros((len(simplices), rows + 1))
    for equation, members in zip(equations, simplices, strict=True):
        equation[members] = 1.0
    named = np.ones(values, bool) if free_V is None else ~free_V
    levels_VN = ((points_NV - targets_V) / sd_V).T[named]
    result = linprog(
        np.append(np.zeros(rows), -1.0),
        A_ub=np.hstack([-levels_VN, np.ones((named.sum(), 1))]),
        b_ub=np.zeros(named.sum()),
        A_eq=equations,
        b_eq=[len(members) / rows for members in simplices],
        bounds=[(0, None)] * rows + [(None, None)],
        method="highs",
    )
    assert result.status == 0, result.message
    return -result.fun


def least_change(scores_NV, ids_N, target_V, cost_V, estimator, power):
    """min sum cost * (c - a)_+^power over feasible levels a, in sd above the base level, with all rows at once.

    One linear program for power 1, SLSQP over the row weights for power 2.
    """
    base_V, sd_V = scores_NV.mean(axis=0), scores_NV.std(axis=0)
    points_NV = deviations(scores_NV, ids_N) / sd_V if estimator == "centered" else (scores_NV - base_V) / sd_V
    rows, values = points_NV.shape
    simplices = prompts_of(ids_N) if estimator == "per_prompt" else [np.arange(rows)]
    equations = np.array([np.isin(np.arange(rows), members) for members in simplices], dtype=float)
    shares = equations.sum(axis=1) / rows
    padding = np.zeros((len(simplices), values))
    if power == 1:
        return linprog(
            np.append(np.zeros(rows), cost_V),
            A_ub=-np.hstack([points_NV.T, np.eye(values)]),
            b_ub=-target_V,
            A_eq=np.hstack([equations, padding]),
            b_eq=shares,
        ).fun
    result = minimize(
        lambda w: cost_V @ np.maximum(target_V - w @ points_NV, 0) ** 2,
        equations.T @ (shares / equations.sum(axis=1)),
        jac=lambda w: -2 * points_NV @ (cost_V * np.maximum(target_V - w @ points_NV, 0)),
        bounds=[(0, 1)] * rows,
        constraints=[{"type": "eq", "fun": lambda w: equations @ w - shares, "jac": lambda w: equations}],
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    assert result.success, result.message
    return result.fun


def random_scores(rng, prompts=40, samples=6, values=3, between=0.5):
    """Correlated Gaussian scores (N, V) with a share `between` of the variance between prompts, and ids (N,)."""
    mix = rng.normal(size=(values, values))
    ids_N = np.repeat(np.arange(prompts), samples)
    effect = rng.normal(size=(prompts, values)) * np.sqrt(between)
    noise = rng.normal(size=(prompts * samples, values)) * np.sqrt(1 - between)
    return (effect[ids_N] + noise) @ mix, ids_N
