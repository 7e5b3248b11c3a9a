"""Licences of everything that users install with mapft. Truth: the metadata of the installed distributions."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
# Licences of what an Apache-2.0 project may depend on.
FREE = r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|MPL|Mozilla|Unlicense)\b"
COPYLEFT = r"\b[AL]?GPL|\bGNU\b"
CUDA = ("cuda-", "nvidia-")  # the CUDA builds of torch require these, under NVIDIA's licence


def installed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[Distribution]:
    """The distribution and those that it requires on this platform, without those that are not installed here."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return
    yield found
    for requirement in map(Requirement, found.requires or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {*extras, ""}):
            yield from installed(requirement.name, frozenset(requirement.extras), seen)


def licence(found: Distribution) -> str:
    classifiers = [line for line in found.metadata.get_all("Classifier", []) if line.startswith("License")]
    return found.metadata.get("License-Expression") or "; ".join(classifiers) or found.metadata.get("License", "")


def test_every_dependency_has_a_compatible_licence():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    found = installed("mapft", frozenset(extras) - {"dev"}, set())
    licences = {package.name: licence(package) for package in found if not package.name.startswith(CUDA)}
    assert {"torch", "trl", "hydra-core", "deepspeed", "bitsandbytes"} <= set(licences)
    assert {name: text for name, text in licences.items() if not re.search(FREE, text)} == {}
    assert {name: text for name, text in licences.items() if re.search(COPYLEFT, text)} == {}
