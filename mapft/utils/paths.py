"""Files and folders that ship with the package, and the state of local files."""

from pathlib import Path


def shipped(name: str) -> Path:
    """`conf` or `launch`: inside the package when installed from a wheel, at the repository's root otherwise."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / name, package.parent / name) if folder.is_dir())
