"""A Python function f(prompts, completions, **columns) -> list of floats as a score, synchronous or asynchronous.

A configuration may come from somebody else, so it may only name code that the user trusts: modules of the current
folder and of PYTHONPATH, and the packages that the environment variable MAPFT_TRUST lists.
"""

import asyncio
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from mapft.config.fields import setting
from mapft.rewards.score import NO_COLUMNS, OWN_ARGUMENTS, Columns, DeclaredScore, WithoutWeights
from mapft.utils.errors import UserError, reason

TRUST_VARIABLE = "MAPFT_TRUST"  # environment variable with more trusted packages, separated by commas
TRUSTED_MODULES = ("trl.rewards",)


@dataclass(frozen=True, kw_only=True)
class FunctionScore(DeclaredScore):
    """r(x_n, y_n) = sign * target(prompts=[x_1, ...], completions=[y_1, ...], **columns, **arguments)[n].

    A column of the data, a list with one value per response, is passed where a parameter has its name, or `columns`.
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

    def imported(self) -> Any:
        """What `target` names, from the Python path or the current folder."""
        module, _, attribute = self.target.partition(":")
        try:
            target = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"target={self.target} cannot be imported ({reason(error)}); write module:function, with the module on "
                "the Python path."
            ) from error
        if inspect.isroutine(target) or inspect.isclass(target):  # the module may have imported it from elsewhere
            _require_trust("target", self.target, target.__module__ or "builtins")
        return target

    def reads(self, available: Collection[str]) -> list[str]:
        """`columns`, and the function's parameters: those without a default are required."""
        named = [
            parameter.name
            for parameter in _parameters(self.imported())
            if parameter.name not in self.arguments
            and (parameter.default is inspect.Parameter.empty or parameter.name in available)
        ]
        return list(dict.fromkeys([*self.columns, *named]))

    def files(self) -> list[str]:
        """The module's source file; none for a module without one, or that does not exist (`load` reports it)."""
        try:
            spec = importlib.util.find_spec(self.target.partition(":")[0])
        except (Exception, SystemExit):  # importing a parent package can raise anything
            return []
        return [spec.origin] if spec is not None and spec.has_location and spec.origin else []


class FunctionScorer(WithoutWeights):
    """The function in this process."""

    def __init__(self, name: str, settings: FunctionScore):
        self.name, self.settings = name, settings
        try:
            target = settings.imported()
        except UserError as error:
            raise UserError(f"rewards.{name}.{error}") from error
        try:
            self.function: Callable[..., Any] = (
                target(**settings.arguments) if isinstance(target, type) else partial(target, **settings.arguments)
            )
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(
                f"rewards.{name}.target={settings.target} cannot be called with arguments={settings.arguments} "
                f"({reason(error)}); correct the arguments, or the function."
            ) from error

    def score(self, prompts: Sequence[str], responses: Sequence[str], columns: Columns = NO_COLUMNS) -> np.ndarray:
        """(N,) float64."""
        lists = {name: list(values) for name, values in columns.items()}
        try:
            scores = self._call_with_timeout(lambda: self._call(list(prompts), list(responses), lists))
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            passed = ", ".join(f"{name}=[...]" for name in (*OWN_ARGUMENTS, *columns))
            raise UserError(
                f"rewards.{self.name}: {self.settings.target} raised {type(error).__name__}: {error}; it is called as "
                f"f({passed}), with those columns of the data that its parameters or rewards.{self.name}.columns name."
            ) from error
        if scores.shape != (len(responses),):
            raise UserError(
                f"rewards.{self.name}: {self.settings.target} returned numbers of shape {scores.shape} for "
                f"{len(responses)} responses; return a list with one number per response."
            )
        return self.settings.sign * scores

    def _call(self, prompts: list[str], responses: list[str], columns: dict[str, list[Any]]) -> np.ndarray:
        result = self.function(prompts=prompts, completions=responses, **columns)
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


def _parameters(target: Any) -> list[inspect.Parameter]:
    """The parameters of a function, or of the instances of a class, that can name a column."""
    try:
        parameters = list(
            inspect.signature(target.__call__ if isinstance(target, type) else target).parameters.values()
        )
    except (TypeError, ValueError):  # a built-in without a signature
        return []
    if isinstance(target, type):
        del parameters[:1]  # self
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [each for each in parameters if each.kind in by_name and each.name not in OWN_ARGUMENTS]


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
