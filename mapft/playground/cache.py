"""The cache of the built world."""

import os
from functools import partial
from hashlib import blake2b
from pathlib import Path

from mapft.utils.errors import UserError
from mapft.utils.files import locked, write_atomically

from .builder import MODELS, build, remove_leftovers, write_requests

SEED = 0
REQUESTS = "requests"
NAMES = {name: name for name in MODELS} | {"prompts": "prompts.jsonl"}


def locate(name: str, *, _size: str = "full") -> Path:
    """Path of a model folder ("policy", "humor", "helpful", "harmless") or of the prompt file ("prompts").

    Builds the world on first use, which takes about 90 seconds on two cores; again when a file of this package changes.
    "requests" is the prompt file for any other chat model, which needs no world. The cache is $MAPFT_CACHE, else
    $XDG_CACHE_HOME/mapft, else ~/.cache/mapft.
    """
    if name == REQUESTS:
        file = cache_folder() / f"requests-{_digest(REQUESTS)}.jsonl"
        return file if file.exists() else write_atomically(file, partial(write_requests, seed=SEED))
    if name not in NAMES:
        known = ", ".join([*NAMES, REQUESTS])
        raise UserError(f"The part {name!r} of the playground is unknown; use one of {known}.")
    world = cache_folder() / f"playground-{_digest(_size)}"
    if not world.exists():
        _build_once(world, _size)
    return world / NAMES[name]


def cache_folder() -> Path:
    """The folder for everything that mapft can rebuild."""
    if "MAPFT_CACHE" in os.environ:
        return Path(os.environ["MAPFT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mapft"


def _build_once(world: Path, size: str) -> None:
    with locked(world):
        if not world.exists():
            remove_leftovers(world)
            build(world, SEED, _size=size)


def _digest(size: str) -> str:
    """A hash of everything that the world depends on: the files of this package, the seed, and the size."""
    digest = blake2b(f"{SEED} {size}".encode(), digest_size=6)
    package = Path(__file__).parent
    for path in sorted([*package.glob("*.py"), *package.glob("world/*.toml")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
