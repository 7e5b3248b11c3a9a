"""Every benchmark, one after the other, into one file.

    python -m tests.benchmarks [--only dual,ui]

notebooks/figures/benchmarks.md holds for each the machine, the date, the ratios, and what it printed.
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
HEAD = """# Benchmarks

`./launch/bench.sh` measures them again, `--only ui,dual` some of them. Each part is one run, on a machine that should
do nothing else."""
BENCHMARKS = {  # in the order of the file
    "dual": "the dual against the published 150 Adam steps, on the same scores",
    "scoring": "reward models in length-sorted batches against one text at a time",
    "ppo": "an iteration against TRL 1.12's PPO and TRL's RLOO",
    "run": "the whole job, and what is shared between runs",
    "ui": "a slider's move at 20,000 samples of 6 values",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="names, separated by commas")
    names = parser.parse_args().only.split(",")
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    kept, failed = sections(), []
    for name in names:
        print(f"{name}: {BENCHMARKS[name]} ...", flush=True)
        part = measured(name)
        if part is None:
            failed.append(name)
        else:
            kept[name] = part
            print(part)
            write_text(TABLE, "\n\n".join([HEAD, *(kept[known] for known in BENCHMARKS if known in kept)]) + "\n")
    if failed:
        print(f"{', '.join(failed)} failed; what was measured of them before stays.", file=sys.stderr)
    return 1 if failed else 0


def measured(name: str) -> str | None:
    """The section of one benchmark, which is run in a process of its own; None where it failed."""
    command = [sys.executable, "-m", f"tests.benchmarks.bench_{name}"]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TMPDIR": folder}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    lines = done.stdout.splitlines()
    rows = [line.removeprefix(f"{RATIO} ") for line in lines if line.startswith(RATIO)]
    printed = "\n".join(line for line in lines if not line.startswith(RATIO)).strip()
    table = "\n".join(["| what | measured |", "|---|---|", *rows])
    return f"## {name}: {BENCHMARKS[name]}\n\n{machine()}\n\n{table}\n\n    " + printed.replace("\n", "\n    ")


def sections() -> dict[str, str]:
    """What was measured before, by benchmark."""
    if not TABLE.exists():
        return {}
    parts = TABLE.read_text("utf-8").rstrip().split("\n## ")[1:]
    return {part.partition(":")[0]: f"## {part.rstrip()}" for part in parts}


def machine() -> str:
    """What the ratios were measured on, and when."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "numpy"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    memory = psutil.virtual_memory().total / 1e9
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GB, {gpu}; "
        f"Python {platform.python_version()}, {packages}."
    )


if __name__ == "__main__":
    sys.exit(main())
