"""Milliseconds from a slider's move to everything that the page shows, at N = 20,000 samples and V = 6 values.

python -m tests.benchmarks.bench_ui
"""

import statistics
import time
from pathlib import Path

import numpy as np

from mapft.palette import RewardMatrix
from mapft.ui.board import UNITS, Board
from mapft.ui.page import Page
from tests.benchmarks import ratio

ROWS, VALUES, PER_PROMPT, MOVES = 20_000, 6, 20, 60
SHARES = {"quantile": (0.3, 0.75), "sd": (0.01, 0.12), "absolute": (0.01, 0.12)}  # of a slider; nearly all attainable


def main() -> None:
    rng = np.random.default_rng(0)
    mixing = np.eye(VALUES) - 0.15 * (1 - np.eye(VALUES))
    names = [f"value_{number}" for number in range(VALUES)]
    scores = RewardMatrix(
        rng.normal(size=(ROWS, VALUES)) @ mixing, names, np.repeat(np.arange(ROWS // PER_PROMPT), PER_PROMPT)
    )
    texts = [f"text {row}" for row in range(ROWS)]
    page = Page(Board(scores, texts, texts), Path())
    for unit in UNITS:
        taken, attainable = [], 0
        for _ in range(MOVES):
            spans = [page.board.span(unit, name) for name in names]
            at = [low + rng.uniform(*SHARES[unit]) * (high - low) for low, high in spans]
            begin = time.perf_counter()
            shown = page.show(unit, names[0], names[1], 0, "mine", *[True] * VALUES, *at)
            taken.append(1000 * (time.perf_counter() - begin))
            attainable += "Attainable" in shown[0]
        worst = sorted(taken)[int(0.95 * MOVES)]
        said = f"median {statistics.median(taken):6.1f} ms   95 % within {worst:6.1f} ms"
        print(f"{unit:<10} {said}   ({attainable} of {MOVES} attainable)")
        ratio(f"a slider's move in {unit} units, median", statistics.median(taken), "ms")


if __name__ == "__main__":
    main()
