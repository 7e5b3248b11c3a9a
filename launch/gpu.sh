#!/usr/bin/env bash
# What needs a GPU, without network: the tests marked gpu, then bench_gpu, whose table with the card's name goes into
# notebooks/figures/benchmarks.md. PYTHON: of an environment with mapft[dev]; PEER: a folder with trl 1.12.0, for its PPO.
# --device cpu: a dry run, which leaves the table as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
export HF_HUB_OFFLINE=1 WANDB_MODE=offline
if [ "$*" = "--device cpu" ]; then
  MAPFT_DRY_RUN=1 "$python" -m pytest -m gpu
  exec "$python" -m tests.benchmarks.bench_gpu
fi
if [ $# -gt 0 ]; then
  echo "$* is unknown; the only option is --device cpu." >&2
  exit 2
fi
"$python" -m pytest -m gpu
exec "$python" -m tests.benchmarks --only gpu
