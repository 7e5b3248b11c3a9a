# Sourced by the other scripts: creates .venv in the root of the repository, with mapft and the extras in $1 ("" or "[dev]").
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "mapft needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Set PYTHON to a newer one." >&2
  exit 2
fi
stamp=".venv/.installed${1:-}"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  echo "Installing mapft${1:-} into .venv ..."
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${1:-}"
  touch "$stamp"
fi
