"""Any Python function f(prompts, completions) -> list of floats as a score, sync or async."""

import asyncio
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from mapft.errors import UserError


@dataclass(frozen=True)
class FunctionScore:
    """r(x, y) = sign * target(prompts=[x, ...], completions=[y, ...], **arguments)[n].

    target is written module:function, or as Hydra writes it, `_target_: module.function` with the arguments beside it.
    A class is made with the arguments, and what comes of it is called. unit, low, high: what the function's own numbers
    are, and between which they lie (null: unbounded).
    """

    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    sign: float = 1.0
    unit: str = "score"
    low: float | None = None
    high: float | None = None

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
            self.function: Callable[..., Any] = (
                target(**given) if isinstance(target, type) else partial(target, **given)
            )
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
            given = self.function(prompts=list(prompts), completions=list(responses))
            scores = np.asarray(asyncio.run(_awaited(given)) if inspect.isawaitable(given) else given, dtype=float)
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


async def _awaited(given: Any) -> Any:
    return await given
