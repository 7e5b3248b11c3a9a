"""Files that appear whole or not at all, and the store of what was drawn and scored.

A store entry is a folder {kind}-{fingerprint} that holds data.parquet and manifest.json; the fingerprint covers
everything the data depends on, so an entry is reused exactly when nothing changed.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from mapft.config import fingerprint
from mapft.errors import UserError
from mapft.masking import masked

TEMPORARY = ".mapft-tmp"  # ends the name of a file or folder that is being written


def write_atomically(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write to a neighbouring temporary file, then rename; a killed write leaves the old file or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unwritten(path, error) from error
    return path


def unwritten(path: Path, error: OSError) -> UserError:
    """For a file or folder that the system would not make."""
    return UserError(f"{path} cannot be written ({error.strerror or error}); free space or choose output=...")


def write_text(path: Path, text: str) -> Path:
    """UTF-8, atomically."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Indented JSON, atomically."""
    return write_text(path, json.dumps(content, indent=2) + "\n")


def write_array(path: Path, array: np.ndarray) -> Path:
    """.npy, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)

    return write_atomically(path, write)


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises UserError for a file that somebody or something else has changed."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise damaged(path, error) from error
    if not isinstance(content, dict):
        raise damaged(path, TypeError(f"it holds a {type(content).__name__}"))
    return content


def read_table(path: Path) -> pd.DataFrame:
    """A table that was kept as parquet. Raises UserError as `read_json` does."""
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of the file system, not of what the file holds
            raise
        raise damaged(path, error) from error


def read_array(path: Path) -> np.ndarray:
    """What `write_array` wrote. Raises UserError as `read_json` does."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> UserError:
    """For a file of ours that is not as it was written, which only something else can have done."""
    return UserError(
        f"{path} is not as it was written ({error}); move it away and repeat the command, which makes it again."
    )


def stored(root: Path, kind: str, depends_on: Mapping[str, Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table that depends on `depends_on` alone: read from the store, or made and kept there.

    Of several processes that want one at a time, one makes it and the others wait.
    """
    entry = root / f"{kind}-{fingerprint(dict(depends_on))}"
    data, manifest = entry / "data.parquet", entry / "manifest.json"
    with locked(entry):
        remove_leftovers(entry)
        if not (manifest.exists() and data.exists()):
            table = make()
            write_atomically(data, lambda temporary: table.to_parquet(temporary, index=False))
            write_json(manifest, masked({"kind": kind, "rows": len(table), **depends_on}))
    return read_table(data)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writes have left in a folder that no other process writes to."""
    for path in list(folder.rglob(f".*{TEMPORARY}")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def locked(entry: Path) -> FileLock:
    """Held by the one process that makes the entry; the system lets go of it when that process dies."""
    locks = entry.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / entry.name)
