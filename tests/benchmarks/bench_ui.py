"""Milliseconds from a slider's move to everything that the page shows, at N = 20,000 samples and V = 6 values.

python -m tests.benchmarks.bench_ui

First what is computed, then what a user waits for: in Chromium, from the slider's event to the first frame after the
verdict has changed.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from mapft.palette import RewardMatrix
from mapft.ui.board import UNITS, Board
from mapft.ui.page import Page
from tests.benchmarks import ratio
from tests.ui.browser import CHROMIUM, browsing, serving

ROWS, VALUES, PER_PROMPT, MOVES = 20_000, 6, 20, 60
SHARES = {"quantile": (0.3, 0.75), "sd": (0.01, 0.12), "absolute": (0.01, 0.12)}  # of a slider; nearly all attainable

MOVE = """([number, at]) => new Promise(done => {
    const slider = document.querySelector(`#level-${number} input[type=range]`);
    const text = () => document.querySelector("#verdict .verdict")?.textContent;
    const before = text(), begin = performance.now();
    const watch = new MutationObserver(() => {
        if ([before, undefined].includes(text())) return;
        watch.disconnect();
        requestAnimationFrame(() => done(performance.now() - begin));
    });
    watch.observe(document.body, {childList: true, subtree: true, characterData: true});
    slider.value = at;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
})"""


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
        print(f"{unit:<10} {said(taken)}   ({attainable} of {MOVES} attainable)")
        ratio(f"a slider's move in {unit} units, computed, median", statistics.median(taken), "ms")
    if CHROMIUM is None:
        print("in the browser: not measured, no Chromium is installed")
        return
    taken = in_the_browser(scores)
    print(f"browser    {said(taken)}")
    ratio("a slider's move until the browser shows it, median", statistics.median(taken), "ms")


def in_the_browser(scores: RewardMatrix) -> list[float]:
    """Moves of one slider after the other, above the base level so that each changes the verdict."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        scores.to_parquet(path)
        with serving(path) as url, browsing(url) as (page, _):
            page.wait_for_timeout(1000)  # the first answers are on their way
            taken = []
            for move in range(MOVES):
                to = 0.52 + 0.01 * (move // VALUES)  # sliders snap to thousandths, and a move must be one
                taken.append(page.evaluate(MOVE, [move % VALUES, to]))
                page.wait_for_timeout(200)
    return taken


def said(taken: list[float]) -> str:
    worst = sorted(taken)[int(0.95 * len(taken))]
    return f"median {statistics.median(taken):6.1f} ms   95 % within {worst:6.1f} ms"


if __name__ == "__main__":
    main()
