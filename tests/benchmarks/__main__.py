"""Run the benchmarks one after another and write their results to one file.

    python -m tests.benchmarks [--only dual,ui]

notebooks/figures/benchmarks.md has the machine, the date, the ratios and the output of each.
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

from mapft.utils.files import write_text
from tests.benchmarks import RATIO

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "notebooks/figures/benchmarks.md"
HEAD = """# Benchmarks

`./launch/bench.sh` runs all benchmarks, `--only ui,dual` some of them. Each section is one run on an otherwise idle
machine."""
BENCHMARKS = {  # in the order of the file
    "dual": "the dual solver against the published 150 Adam steps, on the same scores",
    "scoring": "reward models in length-sorted batches against one text at a time",
    "ppo": "an iteration against TRL 1.12's PPO and TRL's RLOO",
    "gpu": "on a GPU: PPO at two models' shapes, and SmolLM2 end to end",
    "convergence": "responses until PPO reaches p_lam, without and with replay",
    "sequential": "responses that a visit of sequential mode needs",
    "mismatch": "how near PPO comes to p_lam on responses of an engine of another distribution",
    "engines": "tokens per second of transformers and vLLM; needs MAPFT_VLLM",
    "long": "memory, open files and disk over 10,000 iterations",
    "scale": "a million samples, 64 values, a million stored responses, 2 GB of prompts",
    "run": "a complete run, and what runs share",
    "ui": "moving a slider of the palette page, 20,000 samples of 6 values",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_any_machine = ",".join(name for name in BENCHMARKS if name != "gpu")
    parser.add_argument("--only", default=on_any_machine, help="names, separated by commas; gpu only where it is named")
    names = parser.parse_args().only.split(",")
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"the benchmark {', '.join(sorted(unknown))} is unknown; use {', '.join(BENCHMARKS)}")
    sections, failed = read_sections(), []
    for name in names:
        print(f"{name}: {BENCHMARKS[name]} ...", flush=True)
        section = run_benchmark(name)
        if section is None:
            failed.append(name)
        else:
            sections[name] = section
            print(section)
            ordered = [sections[known] for known in BENCHMARKS if known in sections]
            write_text(TABLE, "\n\n".join([HEAD, *ordered]) + "\n")
    if failed:
        print(f"{', '.join(failed)} failed; previous results are unchanged.", file=sys.stderr)
    return 1 if failed else 0


def run_benchmark(name: str) -> str | None:
    """Run one benchmark in a process of its own and return its section; None if it failed."""
    command = [sys.executable, "-m", f"tests.benchmarks.bench_{name}"]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TMPDIR": folder}
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        print(process.stderr[-2000:], file=sys.stderr)
        return None
    lines = process.stdout.splitlines()
    rows = [line.removeprefix(f"{RATIO} ") for line in lines if line.startswith(RATIO)]
    output = "\n".join(line for line in lines if not line.startswith(RATIO)).strip()
    table = "\n".join(["| what | measured |", "|---|---|", *rows])
    return f"## {name}: {BENCHMARKS[name]}\n\n{machine()}\n\n{table}\n\n    " + output.replace("\n", "\n    ")


def read_sections() -> dict[str, str]:
    """The sections of the existing file, by benchmark."""
    if not TABLE.exists():
        return {}
    parts = TABLE.read_text("utf-8").rstrip().split("\n## ")[1:]
    return {part.partition(":")[0]: f"## {part.rstrip()}" for part in parts}


def machine() -> str:
    """Date, hardware and package versions."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "numpy"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    memory = psutil.virtual_memory().total / 1e9
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GB, {gpu}; "
        f"Python {platform.python_version()}, {packages}."
    )


if __name__ == "__main__":
    sys.exit(main())
