"""Speed of the dual solver against the published method, on the same data: medians and ratios.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_dual [--large]

The published method, from its description: 150 Adam steps (learning rate .1, start lam = 1) on log lam, pooled
partition, float32, no certificate. It is written here with an analytic gradient, which favours it: the published
code differentiates automatically and took 146 ms on one core. `--large` adds one million samples of 16 values.

Legend: N rows, V values.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from mapft.palette import Palette, ScoreMatrix, bootstrap, feasible_region, pareto_front, solve_dual
from mapft.palette.problem import Problem
from tests.benchmarks import ratio
from tests.palette import oracles


def published_adam(scores_NV, targets_V, steps=150, rate=0.1):
    """lam after 150 Adam steps on log lam, float32; maximises lam.c - log mean exp(lam.r)."""
    scores_NV, targets_V = scores_NV.astype(np.float32), targets_V.astype(np.float32)
    log_lam_V = np.zeros(len(targets_V), np.float32)
    first_V, second_V = np.zeros_like(log_lam_V), np.zeros_like(log_lam_V)
    for step in range(1, steps + 1):
        lam_V = np.exp(log_lam_V)
        logits_N = scores_NV @ lam_V
        weights_N = np.exp(logits_N - logits_N.max())
        slope_V = (weights_N @ scores_NV / weights_N.sum() - targets_V) * lam_V
        first_V = 0.9 * first_V + 0.1 * slope_V
        second_V = 0.999 * second_V + 0.001 * slope_V**2
        log_lam_V -= rate * (first_V / (1 - 0.9**step)) / (np.sqrt(second_V / (1 - 0.999**step)) + 1e-8)
    return np.exp(log_lam_V)


def median_ms(function: Callable[[], object], repeats: int = 50) -> float:
    """Median wall time in milliseconds, after one warm-up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def hhh(matrix: ScoreMatrix, quantile: float) -> Palette:
    """humor, helpful, harmless at a quantile, the other values at their means."""
    raised = Palette.of(matrix, quantiles=dict.fromkeys(matrix.values[:3], quantile))
    return Palette({**matrix.base, **raised.targets})


def random_palettes(matrix: ScoreMatrix, count: int, seed: int = 0) -> list[Palette]:
    """Palettes over 1 to V values, at a random share of the way to a random feasible level."""
    rng = np.random.default_rng(seed)
    base_V, palettes = matrix.scores.mean(axis=0), []
    for _ in range(count):
        level_V = rng.dirichlet(np.ones(20)) @ matrix.scores[rng.choice(len(matrix), 20)]
        target_V = base_V + rng.uniform(0.2, 0.95) * (level_V - base_V)
        chosen = rng.choice(len(base_V), rng.integers(1, len(base_V) + 1), replace=False)
        palettes.append(Palette({matrix.values[i]: target_V[i] for i in chosen}))
    return palettes


def single_palettes(matrix: ScoreMatrix) -> None:
    """Median time per palette: the published Adam, Newton alone, solve_dual with its feasibility check."""
    print(f"{len(matrix)} samples, {len(matrix.values)} values, pooled; median of 50, ms")
    print("palette     adam  newton  solve_dual  adam/newton  adam/solve_dual  KKT of adam, of solve_dual")
    for quantile in (0.5, 0.6, 0.7, 0.8):
        palette = hhh(matrix, quantile)
        problem = Problem(matrix, "pooled")
        targets_V = np.array(list(palette.targets.values()))
        adam = median_ms(lambda c=targets_V: published_adam(matrix.scores, c))
        newton = median_ms(lambda p=palette, q=problem: q.maximise_dual(q.target(p.targets)))
        whole = median_ms(lambda p=palette: solve_dual(matrix, p, estimator="pooled"))
        solution = solve_dual(matrix, palette, estimator="pooled")
        residual = adam_residual(matrix, published_adam(matrix.scores, targets_V), targets_V)
        print(
            f"hhh_{quantile * 100:.0f} {adam:10.2f} {newton:7.2f} {whole:11.2f} {adam / newton:12.1f}"
            f"{adam / whole:17.1f}  {residual:.1e}, {solution.kkt_residual:.1e}"
        )
        name = "150 Adam steps (KKT residual 1e-2) / solve_dual with feasibility check (1e-15)"
        ratio(f"{name}, palette hhh_{quantile * 100:.0f}", adam / whole)


def adam_residual(matrix: ScoreMatrix, lam_V, targets_V) -> float:
    """max |min(lam, predicted - c)| in sd units at a float32 lam, evaluated in float64."""
    sd_V, logits_N = matrix.scores.std(axis=0), matrix.scores @ lam_V.astype(np.float64)
    weights_N = np.exp(logits_N - logits_N.max())
    predicted_V = weights_N @ matrix.scores / weights_N.sum()
    return float(np.abs(np.minimum(lam_V * sd_V, (predicted_V - targets_V) / sd_V)).max())


def many(matrix: ScoreMatrix) -> None:
    """Work that is repeated on one matrix: palettes, bootstrap, front, region."""
    palettes = random_palettes(matrix, 1000)
    start = time.perf_counter()
    problem = Problem(matrix, "pooled")
    solved = [problem.solve(palette.targets) for palette in palettes]
    print(f"\n1000 palettes of 1-{len(matrix.values)} values: {time.perf_counter() - start:.2f} s", end="; ")
    print(", ".join(f"{sum(s.status == name for s in solved)} {name}" for name in sorted({s.status for s in solved})))
    solution = solve_dual(matrix, hhh(matrix, 0.6), estimator="pooled")
    print(f"bootstrap, 400 resamples: {median_ms(lambda: bootstrap(matrix, solution), 3):.0f} ms")
    front = lambda: pareto_front(matrix, matrix.values[1:3], 50, estimator="pooled")  # noqa: E731
    print(f"Pareto front, 50 points: {median_ms(front, 10):.0f} ms")
    region = lambda: feasible_region(matrix, *matrix.values[1:3], estimator="pooled")  # noqa: E731
    print(f"feasible region of two values: {median_ms(region, 10):.0f} ms")


def large() -> None:
    """One million samples of 16 values, with the two estimators that scale to this size."""
    rng = np.random.default_rng(0)
    scores_NV = rng.normal(size=(1_000_000, 16)) @ (np.eye(16) + 0.3 * rng.normal(size=(16, 16)))
    names = [f"v{i}" for i in range(16)]
    matrix = ScoreMatrix(scores_NV, names, np.arange(len(scores_NV)) // 4)
    del scores_NV
    palette = Palette.of(matrix, sd={name: 0.15 + 0.02 * i for i, name in enumerate(names)})
    for estimator in ("pooled", "centered"):
        start = time.perf_counter()
        solution = solve_dual(matrix, palette, estimator=estimator)
        seconds = time.perf_counter() - start
        tracemalloc.start()
        solve_dual(matrix, palette, estimator=estimator)
        peak = 1 + tracemalloc.get_traced_memory()[1] / matrix.scores.nbytes
        tracemalloc.stop()
        print(
            f"1e6 samples, 16 values, {estimator}: {seconds:.2f} s, peak {peak:.2f} x the matrix (itself included), "
            f"{solution.status}, KKT {solution.kkt_residual:.0e}"
        )


if __name__ == "__main__":
    scores = ScoreMatrix.from_csv(oracles.PAPER_SCORES)
    single_palettes(scores)
    many(scores)
    if "--large" in sys.argv:
        large()
