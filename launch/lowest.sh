#!/usr/bin/env bash
# The fast tests with the lowest versions that pyproject.toml allows, in .venv-lowest. TORCH=2.13.0 takes that torch in place of the
# lowest. Arguments are passed to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv-lowest/bin/python
"${PYTHON:-python3}" -m venv --clear .venv-lowest
"$python" -m pip install --quiet --disable-pip-version-check uv
"$python" -m uv pip install --quiet --python "$python" --resolution lowest-direct --editable ".[dev]" \
  --override <(echo "${TORCH:+torch==$TORCH}")
export HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1
exec "$python" -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder "$@"
