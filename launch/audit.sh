#!/usr/bin/env bash
# Writes sbom.json, a bill of materials (CycloneDX) of .venv, and fails if a package there has a known vulnerability. The tools are
# in .venv-audit, so that they do not change what is audited. Creates .venv, with mapft only, if it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/python ] || source launch/venv.sh ""
tools=.venv-audit/bin
if [ ! -x "$tools/pip-audit" ]; then
  "${PYTHON:-python3}" -m venv .venv-audit
  "$tools/python" -m pip install --quiet --disable-pip-version-check cyclonedx-bom pip-audit
fi
"$tools/cyclonedx-py" environment --pyproject pyproject.toml --output-file sbom.json .venv/bin/python
audit() { "$tools/pip-audit" --timeout 5 --progress-spinner off "$@"; }
# An index without advisories answers as if there were none; pip 19.0 has some.
if ! grep --quiet "^pip *19\.0" <(audit --no-deps --disable-pip --requirement <(echo pip==19.0) 2> /dev/null); then
  echo "The advisory source cannot be reached; the audit is skipped."
  exit
fi
audit --path "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
