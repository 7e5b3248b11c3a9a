"""The cache of samples and scores, shared by all runs in one output folder.

An entry is named by a hash of everything that its content depends on, so it is reused exactly when nothing changed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mapft.config import fingerprint
from mapft.utils.files import locked, read_table, remove_leftovers, write_atomically, write_json
from mapft.utils.redact import redact

DATA, MANIFEST = "data.parquet", "manifest.json"


class Cache:
    """Entries `{kind}-{hash}` in a folder: a table with a manifest of what it depends on, or scores of one value."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def table(self, kind: str, depends_on: Mapping[str, Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The table that depends on `depends_on` alone, read or made; one process makes it while others wait."""
        entry = self._entry(kind, depends_on)
        data, manifest = entry / DATA, entry / MANIFEST
        with locked(entry):
            remove_leftovers(entry)
            if not self.has_table(kind, depends_on):
                table = make()
                write_atomically(data, lambda temporary: table.to_parquet(temporary, index=False))
                write_json(manifest, redact({"kind": kind, "rows": len(table), **depends_on}))
        return read_table(data)

    def has_table(self, kind: str, depends_on: Mapping[str, Any]) -> bool:
        """Whether `table` would read it."""
        entry = self._entry(kind, depends_on)
        return (entry / MANIFEST).exists() and (entry / DATA).exists()

    def scores(self, value: str, depends_on: Mapping[str, Any]) -> Path:
        """The folder that keeps one value's scores of certain texts (mapft/rewards/scoring.py)."""
        return self.folder / f"score-{value}-{fingerprint(dict(depends_on))}"

    def _entry(self, kind: str, depends_on: Mapping[str, Any]) -> Path:
        return self.folder / f"{kind}-{fingerprint(dict(depends_on))}"
