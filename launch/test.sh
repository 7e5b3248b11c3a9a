#!/usr/bin/env bash
# Every check: style, types, tests. Makes .venv when it is missing. Arguments are passed on to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "[dev]"
export HF_HUB_OFFLINE=1 WANDB_MODE=offline
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest --durations=15 "$@"
