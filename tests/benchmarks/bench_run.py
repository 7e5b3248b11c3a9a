"""A run on the playground, then a run with a second palette, then the same command again; and times to start.

    python -m tests.benchmarks.bench_run

PPO (2048 responses) and evaluation are small, so that the shared stages have a realistic weight. The first PPO
iteration of a run whose pilot is in the cache is measured to the first line of its log, without and with the passes
over the stored pilot (log p0 and the critic's fit, without a warm start).
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import ratio

SHORT = ["trainer.total_episodes=2048", "evaluation.prompts=128"]


def main() -> None:
    output = Path(tempfile.mkdtemp())
    subprocess.run([sys.executable, "-m", "mapft", "plan"], check=True, capture_output=True)  # builds the playground
    first = seconds(output, "palette=hhh_60")
    second = seconds(output, "palette=hhh_70")
    again = seconds(output, "palette=hhh_70")
    print(f"first palette {first:.1f} s, second {second:.1f} s, the same command again {again:.1f} s")
    ratio("a run with a second palette / the first, whose pilot and scores it shares", second / first)
    ratio("the same command again / the first", again / first)
    for name, words in {"mapft --help": ["-m", "mapft", "--help"], "import mapft": ["-c", "import mapft"]}.items():
        times = [duration(words) for _ in range(5)]
        ratio(f"{name}, median of 5", statistics.median(times), "s")
    for name, replay in {
        "without replay": "trainer.replay_batch=0",
        "with replay": "trainer.warm_start_passes=0",
    }.items():
        ratio(f"from command to first PPO iteration, {name}", first_iteration(output, replay), "s")


def seconds(output: Path, *overrides: str) -> float:
    return duration(["-m", "mapft", "run", f"output={output}", *SHORT, *overrides])


def duration(words: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - begin


def first_iteration(output: Path, *overrides: str) -> float:
    """Seconds until the run has logged its first iteration; it is ended then."""
    folder = Path(tempfile.mkdtemp(dir=output)) / "run"
    words = [sys.executable, "-m", "mapft", "run", f"output={output}", f"run_dir={folder}", "palette=hhh_60"]
    begin = time.perf_counter()
    run = subprocess.Popen(
        [*words, "trainer.logging_steps=1", *overrides], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not ((folder / "logs.jsonl").exists() and (folder / "logs.jsonl").stat().st_size):
        assert run.poll() is None, "the run failed"
        time.sleep(0.05)
    took = time.perf_counter() - begin
    run.kill()
    run.wait()
    return took


if __name__ == "__main__":
    main()
