#!/usr/bin/env bash
# Runs the benchmarks and writes notebooks/figures/benchmarks.md: ratios of one run, with machine and date. --only dual,ui
# runs some of them. About fifteen minutes on two cores. Creates .venv if it is missing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "[dev]"
exec .venv/bin/python -m tests.benchmarks "$@"
