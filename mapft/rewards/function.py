"""A Python function f(prompts, completions) -> list of floats as a score, synchronous or asynchronous.

A configuration may come from somebody else, so it may only name code that the user trusts: modules of the current
folder and of PYTHONPATH, and the packages that the environment variable MAPFT_TRUST lists.
"""

import asyncio
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from mapft.config.fields import setting
from mapft.rewards.score import DeclaredScore, WithoutWeights
from mapft.utils.errors import UserError

TRUST_VARIABLE = "MAPFT_TRUST"  # environment variable with more trusted packages, separated by commas
TRUSTED_MODULES = ("trl.rewards",)


@dataclass(frozen=True, kw_only=True)
class FunctionScore(DeclaredScore):
    """r(x_n, y_n) = sign * target(prompts=[x_1, ...], completions=[y_1, ...], **arguments)[n].

    A class is instantiated with the arguments, and the instance is called. Hydra's form `_target_: module.function`,
    with the arguments beside it, means the same.
    """

    target: str = setting(help="The function or class, as module:function.")
    arguments: dict[str, Any] = setting(factory=dict, help="Keyword arguments of the function or class.")
    timeout: float | None = setting(
        None, "Timeout of one call.", unit="seconds", above=0, null="wait without limit", identity=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_trust("target", self.target, self.target.partition(":")[0])

    def load(self, name: str) -> "FunctionScorer":
        return FunctionScorer(name, self)

    def files(self) -> list[str]:
        """The module's source file; none for a module without one, or that does not exist (`load` reports it)."""
        try:
            spec = importlib.util.find_spec(self.target.partition(":")[0])
        except Exception:  # importing a parent package can raise anything
            return []
        return [spec.origin] if spec is not None and spec.has_location and spec.origin else []


class FunctionScorer(WithoutWeights):
    """The function, imported from the Python path or the current folder."""

    def __init__(self, name: str, settings: FunctionScore):
        self.name, self.settings = name, settings
        module, _, attribute = settings.target.partition(":")
        try:
            target = getattr(importlib.import_module(module), attribute)
            if inspect.isroutine(target) or inspect.isclass(target):  # the module may have imported it from elsewhere
                _require_trust(f"rewards.{name}.target", settings.target, target.__module__ or "builtins")
            self.function: Callable[..., Any] = (
                target(**settings.arguments) if isinstance(target, type) else partial(target, **settings.arguments)
            )
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"rewards.{name}.target={settings.target} cannot be imported ({error}); write module:function, with "
                "the module on the Python path."
            ) from error

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(N,) float64."""
        try:
            scores = self._call_with_timeout(lambda: self._call(list(prompts), list(responses)))
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"rewards.{self.name}: {self.settings.target} raised {type(error).__name__}: {error}; it is called as "
                "f(prompts=[...], completions=[...])."
            ) from error
        if scores.shape != (len(responses),):
            raise UserError(
                f"rewards.{self.name}: {self.settings.target} returned numbers of shape {scores.shape} for "
                f"{len(responses)} responses; return a list with one number per response."
            )
        return self.settings.sign * scores

    def _call(self, prompts: list[str], responses: list[str]) -> np.ndarray:
        result = self.function(prompts=prompts, completions=responses)
        return np.asarray(asyncio.run(_await(result)) if inspect.isawaitable(result) else result, dtype=float)

    def _call_with_timeout(self, call: Callable[[], np.ndarray]) -> np.ndarray:
        """call(); UserError after `timeout` seconds, when the call continues in a thread that ends with the process."""
        if self.settings.timeout is None:
            return call()
        future: Future[np.ndarray] = Future()

        def work() -> None:
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        Thread(target=work, daemon=True).start()
        try:
            return future.result(self.settings.timeout)
        except TimeoutError as error:
            if future.done():  # raised by the function itself
                raise
            raise UserError(
                f"rewards.{self.name}: {self.settings.target} has not returned within "
                f"timeout={self.settings.timeout:g} seconds; correct it or raise the timeout, and repeat the command, "
                "which continues where it stopped."
            ) from error


def _require_trust(option: str, target: str, module: str) -> None:
    if not is_trusted(module):
        raise UserError(
            f"{option}={target} names code that is neither in the current folder nor on PYTHONPATH, and a "
            "configuration may run other code only with your consent; set "
            f"{TRUST_VARIABLE}={module.partition('.')[0]} if you trust it."
        )


def is_trusted(module: str) -> bool:
    """Whether a configuration may name code of this module; the module is not imported to decide it."""
    package = module.partition(".")[0]
    trusted = [*TRUSTED_MODULES, *filter(None, os.environ.get(TRUST_VARIABLE, "").replace(" ", "").split(","))]
    if any(module == name or module.startswith(f"{name}.") for name in trusted):
        return True
    try:
        spec = importlib.util.find_spec(package)
    except (ValueError, ImportError):  # a module without a file, such as __main__
        return not package
    if spec is None:
        return True  # no such code exists, which `load` reports
    locations = spec.submodule_search_locations or ([str(spec.origin)] if spec.has_location else [])
    folders = [Path.cwd(), *map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    inside = [any(Path(path).resolve().parent == folder.resolve() for folder in folders) for path in locations]
    return bool(inside) and all(inside)


async def _await(result: Any) -> Any:
    return await result
