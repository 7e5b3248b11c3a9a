"""Every benchmark, one after the other, into one table.

    python -m tests.benchmarks [--only dual,ui]

notebooks/figures/benchmarks.md then holds the machine, the date, the ratios, and what each benchmark printed; some of
them alone are printed and not kept.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from mapft.sampling.store import write_text
from tests.benchmarks import RATIO

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "notebooks/figures/benchmarks.md"
BENCHMARKS = {  # name: what it measures, and its arguments
    "dual": ("the dual against the published 150 Adam steps, on the same scores", []),
    "scoring": ("reward models in length-sorted batches against one text at a time", []),
    "ppo": ("an iteration against TRL 1.12's PPO and TRL's RLOO", []),
    "run": ("the whole job, and what is shared between runs", []),
    "ui": ("a slider's move at 20,000 samples of 6 values", []),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="names, separated by commas")
    options = parser.parse_args()
    parts, rows, failed = [], [], []
    for name in options.only.split(","):
        what, arguments = BENCHMARKS[name]
        print(f"{name}: {what} ...", flush=True)
        command = [sys.executable, "-m", f"tests.benchmarks.bench_{name}", *arguments]
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"HF_HUB_OFFLINE": "1", "TMPDIR": folder}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(name)
            print(done.stderr[-2000:], file=sys.stderr)
        lines = done.stdout.splitlines()
        rows += [line.removeprefix(f"{RATIO} ") for line in lines if line.startswith(RATIO)]
        printed = "\n".join(line for line in lines if not line.startswith(RATIO)).strip()
        parts.append(f"## {name}: {what}\n\n    " + printed.replace("\n", "\n    "))
    table = ["| what | measured |", "|---|---|", *rows]
    text = "\n\n".join(["# Benchmarks", machine(), "\n".join(table), *parts]) + "\n"
    print(text.partition("\n## ")[0])
    if failed:
        print(f"{', '.join(failed)} failed, so the table stays as it was.", file=sys.stderr)
        return 1
    if options.only == ",".join(BENCHMARKS):
        write_text(TABLE, text)
    return 0


def machine() -> str:
    """What the ratios were measured on, and when."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "numpy"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    memory = psutil.virtual_memory().total / 1e9
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GB, {gpu}; "
        f"Python {platform.python_version()}, {packages}. `./launch/bench.sh` measures them again."
    )


if __name__ == "__main__":
    sys.exit(main())
