"""Milliseconds from moving a slider to the updated palette page, at N = 20,000 samples of V = 6 values.

python -m tests.benchmarks.bench_ui

First the computation alone, then the time that a user waits: in Chromium, from the slider's event to the first frame
with the verdict of the moved palette.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from mapft.palette import ScoreMatrix
from mapft.ui.board import UNITS, Board
from mapft.ui.page import Page
from tests.benchmarks import ratio
from tests.ui.browser import CHROMIUM, browsing, serving

ROWS, VALUES, PER_PROMPT, MOVES = 20_000, 6, 20, 60
# Shares of a slider's range in which nearly all palettes are feasible.
SHARES = {"quantile": (0.3, 0.75), "sd": (0.01, 0.12), "absolute": (0.01, 0.12)}

MOVE = """([number, at]) => new Promise(done => {
    const slider = document.querySelector(`#level-${number} input[type=range]`);
    const begin = performance.now();
    const watch = new MutationObserver(() => {
        watch.disconnect();
        requestAnimationFrame(() => done(performance.now() - begin));
    });
    watch.observe(document.querySelector("#verdict"), {childList: true});
    slider.value = at;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
})"""


def main() -> None:
    rng = np.random.default_rng(0)
    mixing = np.eye(VALUES) - 0.15 * (1 - np.eye(VALUES))
    names = [f"value_{number}" for number in range(VALUES)]
    scores = ScoreMatrix(
        rng.normal(size=(ROWS, VALUES)) @ mixing, names, np.repeat(np.arange(ROWS // PER_PROMPT), PER_PROMPT)
    )
    texts = [f"text {row}" for row in range(ROWS)]
    page = Page(Board(scores, texts, texts), Path())
    for unit in UNITS:
        times, feasible = [], 0
        for _ in range(MOVES):
            spans = [page.board.span(unit, name) for name in names]
            positions = [low + rng.uniform(*SHARES[unit]) * (high - low) for low, high in spans]
            begin = time.perf_counter()
            answer = page.solve({"unit": unit, "positions": positions, "name": "mine"})
            times.append(1000 * (time.perf_counter() - begin))
            feasible += answer["state"] == "feasible"
        print(f"{unit:<10} {summary(times)}   ({feasible} of {MOVES} feasible)")
        ratio(f"moving a slider in {unit} units, computation, median", statistics.median(times), "ms")
    if CHROMIUM is None:
        print("browser: not measured, because Chromium is not installed")
        return
    times = browser_times(scores)
    print(f"browser    {summary(times)}")
    ratio("moving a slider until the browser shows it, median", statistics.median(times), "ms")


def browser_times(scores: ScoreMatrix) -> list[float]:
    """Milliseconds of moves of one slider after another, between feasible palettes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        scores.to_parquet(path)
        begin = "/#unit=quantile&pair=0-1" + VALUES * "&t=0.52"
        with serving(path) as url, browsing(url + begin) as (page, _):
            page.wait_for_timeout(1000)  # until the first update is complete
            times = []
            for move in range(MOVES):
                position = 0.53 + 0.01 * (move // VALUES)  # sliders have a step of .001; the position must change
                times.append(page.evaluate(MOVE, [move % VALUES, position]))
                page.wait_for_timeout(200)
    return times


def summary(times: list[float]) -> str:
    worst = sorted(times)[int(0.95 * len(times))]
    return f"median {statistics.median(times):6.1f} ms   95 % within {worst:6.1f} ms"


if __name__ == "__main__":
    main()
