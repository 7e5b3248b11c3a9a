"""Paths in settings: a local folder or file, a Hub id, or `playground:NAME` for a part of the playground."""

from functools import cache
from pathlib import Path

from mapft.utils.errors import UserError

from .cache import locate

PLAYGROUND = "playground:"


@cache
def resolve(path: str) -> str:
    """The folder or file of playground:NAME, built on first use; any other path or Hub id unchanged."""
    return str(locate(path.removeprefix(PLAYGROUND))) if path.startswith(PLAYGROUND) else path


def existing_or_hub(path: str, option: str) -> str:
    """`resolve`; UserError for a local path (/..., ./..., ~...) that does not exist. option: the setting's name."""
    resolved = resolve(path)
    if resolved.startswith(("/", ".", "~")) and not Path(resolved).expanduser().exists():
        raise UserError(f"{option}={path} does not exist; give a folder on this machine or a Hub id.")
    return str(Path(resolved).expanduser()) if resolved.startswith("~") else resolved


def file_state(path: str) -> list[list[str | int]]:
    """[name, size, modification time] of the files of a local path; empty for a Hub id (its revision identifies it)."""
    local = Path(resolve(path)).expanduser()
    files = sorted(local.iterdir()) if local.is_dir() else [local] if local.is_file() else []
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file() and f.name != "README.md"]
