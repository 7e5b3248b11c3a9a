#!/usr/bin/env bash
# Every check: style, types, tests (two processes of one thread each). Makes .venv when it is missing. Arguments are
# passed on to pytest; -n 0 runs the tests in one process, -n 8 in eight.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "[dev]"
export HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest -n 2 --dist loadfile --durations=15 "$@"
