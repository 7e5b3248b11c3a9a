"""Where things lie: the folders that ship with the package, and names that stand for a folder."""

from functools import cache
from pathlib import Path

from mapft.errors import UserError
from mapft.playground import locate

PLAYGROUND = "playground:"


def shipped(name: str) -> Path:
    """`conf` or `launch`: inside the package when installed from a wheel, at the repository's root otherwise."""
    package = Path(__file__).parent
    return next(folder for folder in (package / name, package.parent / name) if folder.is_dir())


@cache
def resolve(path: str) -> str:
    """A path or Hub id as it is; `playground:policy` and its like as the folder built on first use."""
    return str(locate(path.removeprefix(PLAYGROUND))) if path.startswith(PLAYGROUND) else path


def existing_or_hub(path: str, option: str) -> str:
    """`resolve`, refusing what can only be a local path (/..., ./..., ~...) and is not there."""
    resolved = resolve(path)
    if resolved.startswith(("/", ".", "~")) and not Path(resolved).expanduser().exists():
        raise UserError(f"{option}={path} does not exist; give a folder on this machine or a Hub id.")
    return str(Path(resolved).expanduser()) if resolved.startswith("~") else resolved
