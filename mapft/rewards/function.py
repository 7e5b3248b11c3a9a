"""Any Python function f(prompts, completions) -> list of floats as a score, sync or async.

Settings can come from somebody else, so they may only name code that the user has put within reach: modules of the
current folder and of PYTHONPATH, and the packages that MAPFT_TRUST lists.
"""

import asyncio
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from mapft.errors import UserError

TRUST = "MAPFT_TRUST"  # name of the environment variable that lists more packages, separated by commas
TRUSTED = ("trl.rewards",)


@dataclass(frozen=True)
class FunctionScore:
    """r(x, y) = sign * target(prompts=[x, ...], completions=[y, ...], **arguments)[n].

    target is written module:function, or as Hydra writes it, `_target_: module.function` with the arguments beside it.
    A class is made with the arguments, and what comes of it is called. unit, low, high: what the function's own numbers
    are, and between which they lie (null: unbounded). timeout: seconds that a call may take (null: any number).
    """

    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    sign: float = 1.0
    unit: str = "score"
    low: float | None = None
    high: float | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        _refuse_untrusted(self.target, self.target.partition(":")[0])
        if self.timeout is not None and self.timeout <= 0:
            raise UserError(f"timeout={self.timeout} is out of range; give seconds above 0, or null.")

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = (-np.inf if self.low is None else self.low), (np.inf if self.high is None else self.high)
        return (min(self.sign * low, self.sign * high), max(self.sign * low, self.sign * high))

    def load(self, name: str) -> "FunctionScorer":
        return FunctionScorer(name, self)

    def files(self) -> list[str]:
        """The module's source file; none for a module that is not there (load says so) or not a file."""
        try:
            spec = importlib.util.find_spec(self.target.partition(":")[0])
        except Exception:  # importing a parent package can raise anything
            return []
        return [spec.origin] if spec is not None and spec.has_location and spec.origin else []

    def estimated_nbytes(self) -> int:
        return 0


class FunctionScorer:
    """The function, imported from the Python path or the current folder."""

    nbytes = 0

    def __init__(self, name: str, settings: FunctionScore):
        self.name, self.settings = name, settings
        module, _, attribute = settings.target.partition(":")
        try:
            target, given = getattr(importlib.import_module(module), attribute), settings.arguments
            if inspect.isroutine(target) or inspect.isclass(target):  # it may have been imported from elsewhere
                _refuse_untrusted(settings.target, target.__module__ or "builtins")
            self.function: Callable[..., Any] = (
                target(**given) if isinstance(target, type) else partial(target, **given)
            )
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"rewards.{name}.target={settings.target} cannot be imported ({error}); write module:function, with "
                "the module on the Python path."
            ) from error

    def to_device(self) -> None:
        """A function has no weights."""

    def to_host(self) -> None:
        """A function has no weights."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """(N,) float64."""
        try:
            scores = self._within_time(lambda: self._called(list(prompts), list(responses)))
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"rewards.{self.name}: {self.settings.target} raised {type(error).__name__}: {error}; it is called as "
                "f(prompts=[...], completions=[...])."
            ) from error
        if scores.shape != (len(responses),):
            raise UserError(
                f"rewards.{self.name}: {self.settings.target} gave numbers of shape {scores.shape} for "
                f"{len(responses)} responses; return a list with one number per response."
            )
        return self.settings.sign * scores

    def _called(self, prompts: list[str], responses: list[str]) -> np.ndarray:
        given = self.function(prompts=prompts, completions=responses)
        return np.asarray(asyncio.run(_awaited(given)) if inspect.isawaitable(given) else given, dtype=float)

    def _within_time(self, call: Callable[[], np.ndarray]) -> np.ndarray:
        """call(), or UserError; one that hangs is left behind in a thread that does not keep the process alive."""
        if self.settings.timeout is None:
            return call()
        answer: Future[np.ndarray] = Future()

        def work() -> None:
            try:
                answer.set_result(call())
            except BaseException as error:
                answer.set_exception(error)

        Thread(target=work, daemon=True).start()
        try:
            return answer.result(self.settings.timeout)
        except TimeoutError as error:
            if answer.done():  # it is the function's own
                raise
            raise UserError(
                f"rewards.{self.name}: {self.settings.target} has not answered within "
                f"timeout={self.settings.timeout:g} seconds; mend it or allow more, and repeat the command, which goes "
                "on where it was."
            ) from error


def _refuse_untrusted(target: str, module: str) -> None:
    if not trusted(module):
        raise UserError(
            f"target={target} names code that is neither in the current folder nor on PYTHONPATH, which settings may "
            f"not run by themselves; set {TRUST}={module.partition('.')[0]} if you trust it."
        )


def trusted(module: str) -> bool:
    """Whether settings may name code of this module; nothing is imported to find out."""
    package = module.partition(".")[0]
    allowed = [*TRUSTED, *filter(None, os.environ.get(TRUST, "").replace(" ", "").split(","))]
    if any(module == name or module.startswith(f"{name}.") for name in allowed):
        return True
    try:
        found = importlib.util.find_spec(package)
    except (ValueError, ImportError):  # a module without a file, such as __main__
        return not package
    if found is None:
        return True  # there is no such code; loading says so
    places = found.submodule_search_locations or ([str(found.origin)] if found.has_location else [])
    reach = [Path.cwd(), *map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    near = [any(Path(place).resolve().parent == folder.resolve() for folder in reach) for place in places]
    return bool(near) and all(near)


async def _awaited(given: Any) -> Any:
    return await given
