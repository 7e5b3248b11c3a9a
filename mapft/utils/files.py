"""Files that appear whole or not at all, locks, and readers that name an invalid file."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mapft.utils.errors import UserError
from mapft.utils.locks import SharedLock, own_name

TEMPORARY = ".mapft-tmp"  # ends the name of a file or folder that is being written


def write_atomically(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write to a neighbouring temporary file, then rename; a killed write leaves the old file or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{own_name()}{TEMPORARY}")
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a file or folder that the system refuses to create."""
    return UserError(
        f"{path} cannot be written ({error.strerror or error}); free space or choose output=..., or the environment "
        "variable MAPFT_CACHE for the cache."
    )


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
    """Content of a JSON file that `write_json` wrote. Raises UserError for an invalid file."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise damaged(path, error) from error
    if not isinstance(content, dict):
        raise damaged(path, TypeError(f"it holds a {type(content).__name__}"))
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a log; a process that was killed, or that is writing, leaves a partial last one."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Inside, content without the expected fields is a UserError about the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(path, error) from error


def read_table(path: Path) -> pd.DataFrame:
    """A parquet table. Raises UserError for an invalid file."""
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of the file system, not of what the file holds
            raise
        raise damaged(path, error) from error


def read_array(path: Path) -> np.ndarray:
    """An array that `write_array` wrote. Raises UserError for an invalid file."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> UserError:
    """The error for a file of a run that was changed by something else."""
    return UserError(f"{path} is invalid ({error}); move it away and repeat the command, which creates it again.")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed writes left in a folder that no other process writes to."""
    for path in list(folder.rglob(f".*{TEMPORARY}")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def locked(entry: Path) -> SharedLock:
    """A lock for the one process that writes the entry; others wait for it."""
    locks = entry.parent / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(locks, error) from error
    return SharedLock(locks / entry.name)
