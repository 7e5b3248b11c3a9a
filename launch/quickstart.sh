#!/usr/bin/env bash
# Makes .venv, installs mapft, and runs the main job on the embedded default. Arguments are passed on as overrides.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" ""
exec .venv/bin/mapft run "$@"
