#!/usr/bin/env bash
# Creates .venv, installs mapft, and runs `mapft run` on the playground. Arguments are overrides.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" ""
exec .venv/bin/mapft run "$@"
