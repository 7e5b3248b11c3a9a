"""Planted worlds: how far the level promised by each estimator is from the level truly realized.

    python -m tests.palette.planted        prints the whole table, and the table of the refinements that were tried

A prompt has mean mu_x ~ N(0, 1/2) and spread s_x with E s_x^2 = 1/2, and its samples score mu_x + s_x e, where e has
mean 0, variance 1 and cumulant generating function k. A policy cannot change mu_x, so p_lam truly realizes

    E_x [ s_x k'(lam s_x) ]    sd above the base level, in closed form.

Every world asks for +.30 sd; half of the variance lies between prompts.
Legend: P prompts, K samples per prompt.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from mapft.palette import ESTIMATORS, RewardMatrix
from mapft.palette.problem import CONVERGED, Problem

TARGET = 0.30
SAMPLES = (2, 4, 8, 16)
REFUSAL = np.array([-2.0, 0.5])  # one sample in five is a refusal; mean 0, variance 1

# law of e: sampler, and k'(t)
LAWS = {
    "gaussian": (lambda rng, size: rng.normal(size=size), lambda t: t),
    "heavy tails": (lambda rng, size: rng.laplace(size=size) / np.sqrt(2), lambda t: t / (1 - t**2 / 2)),
    "skewed down": (lambda rng, size: 1 - rng.exponential(size=size), lambda t: t / (1 + t)),
    "skewed up": (lambda rng, size: rng.exponential(size=size) - 1, lambda t: t / (1 - t)),
    "refusals": (
        lambda rng, size: rng.choice(REFUSAL, size=size, p=[0.2, 0.8]),
        lambda t: (0.2 * np.exp(-2 * t) * -2 + 0.8 * np.exp(t / 2) / 2) / (0.2 * np.exp(-2 * t) + 0.8 * np.exp(t / 2)),
    ),
}
# spread of the prompts: s_x^2 / E s^2, equally likely
SPREADS = {"one spread": (1.0,), "two spreads": (0.2, 1.8), "half fixed": (0.0, 2.0)}
WORLDS = [(law, spread) for law in LAWS for spread in SPREADS]


def scores(world, prompts, samples, rng):
    """Scores (P, K) of one pilot, with the base level exactly 0."""
    law, spread = world
    s_P = np.sqrt(rng.choice(SPREADS[spread], size=prompts) / 2)
    scores_PK = rng.normal(size=(prompts, 1)) / np.sqrt(2) + s_P[:, None] * LAWS[law][0](rng, (prompts, samples))
    return scores_PK - scores_PK.mean()


def truly_realized(world, lam):
    """E_x s_x k'(lam s_x); nan where the moment does not exist."""
    law, spread = world
    s = np.sqrt(np.array(SPREADS[spread]) / 2)
    ceiling = {"heavy tails": np.sqrt(2), "skewed up": 1.0}.get(law, np.inf)
    return float(np.mean(s * LAWS[law][1](lam * s))) if lam * s.max() < ceiling else np.nan


def solved(scores_PK, estimator):
    """lam of one pilot; nan when the target is not attainable in it."""
    prompts, samples = scores_PK.shape
    matrix = RewardMatrix(scores_PK.reshape(-1, 1), ["a"], np.repeat(np.arange(prompts), samples))
    problem = Problem(matrix, estimator)
    ascent = problem.ascend(problem.target({"a": TARGET}))
    return ascent.lam_V[0] / problem.frame.scale_V[0] if ascent.kkt_residual <= CONVERGED else np.nan


def spread_per_prompt(scores_PK, strata=24):
    """Refinement 1: E_x log mean_e exp(lam s_x e); s_x is shrunk to the common spread by split halves (K >= 4)."""
    samples = scores_PK.shape[1]
    d_PK = (scores_PK - scores_PK.mean(axis=1, keepdims=True)) * np.sqrt(samples / (samples - 1))
    if samples < 4:
        return _root(lambda lam: _tilted_mean(lam, d_PK.ravel()))
    halves = [half.var(axis=1, ddof=1) for half in (scores_PK[:, : samples // 2], scores_PK[:, samples // 2 :])]
    variance_P = (d_PK**2).mean(axis=1)
    trust = np.clip(np.cov(*halves)[0, 1] / variance_P.var(), 0, 1)
    s_P = np.sqrt(np.maximum(variance_P.mean() + trust * (variance_P - variance_P.mean()), 1e-9))
    e_N = (d_PK / s_P[:, None]).ravel()
    e_N *= np.sqrt(variance_P.mean() / ((s_P**2).mean() * (e_N**2).mean()))
    nodes = [np.sqrt((stratum**2).mean()) for stratum in np.array_split(np.sort(s_P), strata)]
    return _root(lambda lam: np.mean([s * _tilted_mean(lam * s, e_N) for s in nodes]))


def cumulants_matched(scores_PK):
    """Refinement 2: theta log mean exp(tau lam.(r - prompt mean)), whose 2nd and 4th cumulants are those of e."""
    samples = scores_PK.shape[1]
    second, fourth = 1 - 1 / samples, (1 - 1 / samples) ** 4 + (samples - 1) / samples**4
    tau = np.sqrt(second / fourth)
    d_N = (scores_PK - scores_PK.mean(axis=1, keepdims=True)).ravel()
    return _root(lambda lam: _tilted_mean(tau * lam, d_N) / (second * tau))


def _tilted_mean(lam, points_N):
    weights_N = np.exp(lam * points_N - (lam * points_N).max())
    return weights_N @ points_N / weights_N.sum()


def _root(level):
    return brentq(lambda lam: level(lam) - TARGET, 0, 60) if level(60.0) > TARGET else np.nan


METHODS = {
    **{name: lambda scores_PK, name=name: solved(scores_PK, name) for name in ESTIMATORS},
    "spread": spread_per_prompt,
    "cumulants": cumulants_matched,
}


def error(world, samples, method, prompts=400, pilots=12):
    """Mean of (truly realized - promised) over pilots, in sd; a pilot that diverges counts as +.30."""
    errors = []
    for seed in range(pilots):
        lam = METHODS[method](scores(world, prompts, samples, np.random.default_rng(seed)))
        realized = truly_realized(world, lam) if np.isfinite(lam) else np.nan
        errors.append(min(realized - TARGET, TARGET) if np.isfinite(realized) else TARGET)
    return float(np.mean(errors))


def table(methods, **options):
    """errors[method][world] = the errors at K = 2, 4, 8, 16."""
    return {
        method: {world: [error(world, samples, method, **options) for samples in SAMPLES] for world in WORLDS}
        for method in methods
    }


if __name__ == "__main__":
    errors = table(METHODS)
    print(f"truly realized minus promised ({TARGET} sd), K = {SAMPLES}")
    for method, by_world in errors.items():
        print(f"\n{method}: mean |error| {np.mean(np.abs(list(by_world.values()))):.4f}")
        for (law, spread), line in by_world.items():
            print(f"  {law:12} {spread:12}", *(f"{number:+.3f}" for number in line))
