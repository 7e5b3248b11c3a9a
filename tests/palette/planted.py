"""Worlds with a known law of the scores: the error of the level that each estimator predicts.

    python -m tests.palette.planted        prints the error in every world

A prompt has mean mu_x ~ N(0, 1/2) and spread s_x with E s_x^2 = 1/2. Its samples score mu_x + s_x e, where e has mean
0, variance 1 and cumulant generating function k. A policy cannot change mu_x, so the level of p_lam is, in closed form,

    E_x [ s_x k'(lam s_x) ]    sd above the base level.

Every target is +.30 sd; half of the variance is between prompts.
Legend: P prompts, K samples per prompt.
"""

from __future__ import annotations

import numpy as np

from mapft.palette import ESTIMATORS, ScoreMatrix
from mapft.palette.newton import KKT_TOLERANCE
from mapft.palette.problem import Problem

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


def level_of_policy(world, lam):
    """E_x s_x k'(lam s_x); nan where the moment does not exist."""
    law, spread = world
    s = np.sqrt(np.array(SPREADS[spread]) / 2)
    pole = {"heavy tails": np.sqrt(2), "skewed up": 1.0}.get(law, np.inf)
    return float(np.mean(s * LAWS[law][1](lam * s))) if lam * s.max() < pole else np.nan


def solved(scores_PK, estimator):
    """lam of one pilot; nan when the target is infeasible on it."""
    prompts, samples = scores_PK.shape
    matrix = ScoreMatrix(scores_PK.reshape(-1, 1), ["a"], np.repeat(np.arange(prompts), samples))
    problem = Problem(matrix, estimator)
    iterate = problem.maximise_dual(problem.target({"a": TARGET}))
    return iterate.lam_V[0] / problem.frame.scale_V[0] if iterate.kkt_residual <= KKT_TOLERANCE else np.nan


def error(world, samples, estimator, prompts=400, pilots=12):
    """Mean over pilots of (level of the policy - predicted level) in sd; an infeasible pilot counts as +.30."""
    errors = []
    for seed in range(pilots):
        lam = solved(scores(world, prompts, samples, np.random.default_rng(seed)), estimator)
        level = level_of_policy(world, lam) if np.isfinite(lam) else np.nan
        errors.append(min(level - TARGET, TARGET) if np.isfinite(level) else TARGET)
    return float(np.mean(errors))


def table():
    """errors[estimator][world] = the errors at K = 2, 4, 8, 16."""
    return {
        estimator: {world: [error(world, samples, estimator) for samples in SAMPLES] for world in WORLDS}
        for estimator in ESTIMATORS
    }


if __name__ == "__main__":
    print(f"level of the policy minus predicted level ({TARGET} sd), K = {SAMPLES}")
    for estimator, by_world in table().items():
        print(f"\n{estimator}: mean |error| {np.mean(np.abs(list(by_world.values()))):.3f}")
        for (law, spread), errors in by_world.items():
            print(f"  {law:12} {spread:12}", *(f"{number:+.2f}" for number in errors))
