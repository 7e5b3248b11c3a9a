#!/usr/bin/env bash
# Every benchmark, into notebooks/figures/benchmarks.md: ratios of one run, with the machine and the date. --only dual,ui
# measures some of them. About fifteen minutes on two cores. Makes .venv when it is missing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" "[dev]"
exec .venv/bin/python -m tests.benchmarks "$@"
