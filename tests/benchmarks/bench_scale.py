"""Large inputs: a million samples, 64 values, a million stored responses, and a prompt file of 2 GB.

    python -m tests.benchmarks.bench_scale [--only samples,values,replay,prompts]

Each part runs in a process of its own, whose peak memory is printed.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from random import Random

import numpy as np

from tests.benchmarks import ratio

MB = 1e6


def samples() -> None:
    """A palette of 6 values on 1,000,000 samples of 50,000 prompts: dual, bootstrap, palette page."""
    palette_page(rows=1_000_000, values=6)


def values() -> None:
    """A palette of 64 values on 20,000 samples of 1000 prompts."""
    palette_page(rows=20_000, values=64)


def palette_page(rows: int, values: int, per_prompt: int = 20) -> None:
    """Seconds of the dual, and of the requests of the palette page."""
    from mapft.palette import Palette, ScoreMatrix, solve_dual
    from mapft.ui.board import Board
    from mapft.ui.page import Page

    names = [f"value_{number}" for number in range(values)]
    scores = np.random.default_rng(0).normal(size=(rows, values))
    matrix = ScoreMatrix(scores, names, np.repeat(np.arange(rows // per_prompt), per_prompt))
    page = Page(Board(matrix), Path())
    with timed("solve_dual, with its feasibility check"):
        solution = solve_dual(matrix, Palette.of(matrix, quantiles=dict.fromkeys(names, 0.55)))
    assert solution.lam, solution.sentence
    request = {"unit": "quantile", "name": "mine", "pair": [0, 1], "positions": [0.55] * values}
    for name in ("solve", "limits", "around", "bands"):
        with timed(f"request {name}, the first"):
            page.handlers[f"/{name}"](request)
    request["positions"] = [0.56] * values
    with timed("request solve, a slider further"):
        page.handlers["/solve"](request)


def replay() -> None:
    """1,000,000 stored responses of 32 tokens, 4 to a prompt: add, save, load, take a part."""
    from mapft.ppo.replay import Group, ReplayStore

    responses, tokens, random = 1_000_000, 32, Random(0)
    store = ReplayStore(responses, lambda scores_NV: scores_NV.sum(dim=1), ["a", "b", "c"])
    ids = [[random.randrange(50_000) for _ in range(tokens)] for _ in range(64)]
    before = peak()
    with timed("add"):
        store.add(
            Group(ids[n % 64], [ids[(n + k) % 64] for k in range(4)], [[0.5] * 3] * 4, [-1.0] * 4)
            for n in range(responses // 4)
        )
    print(f"    memory of the store: {peak() - before:.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replay.pt"
        with timed("save"):
            store.save(path, is_main=True)
        print(f"    file: {path.stat().st_size / MB:.0f} MB")
        with timed("load"):
            store.load(path, process=0, processes=1)
    with timed("take the responses of a step"):
        store.sample(32, seed=0)


def prompts() -> None:
    """A file of 2 GB, 2,000,000 prompts of 1000 characters, of which 200,000 are used."""
    from mapft.config import DataConfig
    from mapft.rewards import parse
    from mapft.sampling.prompts import load_prompts

    scores = parse({"brief": {"kind": "length"}})
    random = Random(0)
    words = ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 9))) for _ in range(5000)]
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        path = Path("prompts.jsonl")
        with path.open("w") as file:
            for _ in range(2_000_000):
                file.write(json.dumps({"prompt": " ".join(random.choices(words, k=155))}) + "\n")
        print(f"    file: {path.stat().st_size / MB:.0f} MB")
        before = peak()
        with timed("read"):
            rows = load_prompts(DataConfig(path=str(path)), scores, report=lambda sentence: print(f"    {sentence}"))
        print(f"    {len(rows)} prompts, peak memory {peak() - before:.0f} MB more than before")


PARTS: dict[str, Callable[[], None]] = {part.__name__: part for part in (samples, values, replay, prompts)}


@contextmanager
def timed(what: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    print(f"    {what:<45}{time.perf_counter() - begin:8.2f} s", flush=True)


def peak() -> float:
    """Peak memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


def measured(name: str) -> None:
    PARTS[name]()
    ratio(f"peak memory of {name}", peak(), "MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    for name in parser.parse_args().only.split(","):
        print(f"{name}: {PARTS[name].__doc__}", flush=True)
        process = multiprocessing.get_context("spawn").Process(target=measured, args=[name])
        process.start()
        process.join()
        assert process.exitcode == 0, name


if __name__ == "__main__":
    main()
