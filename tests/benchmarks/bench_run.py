"""A run on the playground, then a run with a second palette, then the same command again.

    python -m tests.benchmarks.bench_run

PPO (2048 responses) and evaluation are small, so that the shared stages have a realistic weight.
"""

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


def seconds(output: Path, *overrides: str) -> float:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "mapft", "run", f"output={output}", *SHORT, *overrides]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
