"""Reward functions whose failures are one sentence with their name, after as many more tries as they were given."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from accelerate.logging import get_logger
from torch import nn
from trl.trainer.utils import get_callable_name, is_async_callable

from mapft.errors import UserError

logger = get_logger(__name__)

FIRST_WAIT = 1.0  # seconds before the second try; each further wait is twice as long


def named_failures(reward_func: Any, retries: int = 0) -> Any:
    """The same function; what it raises after `retries` more calls becomes a UserError that names it.

    Models stay as they are. A UserError is final: calling again would not mend a wrong setting. A wrong number of
    rewards is TRL's to refuse, and a reward that is not finite the trainer's; both name the function.
    """
    if isinstance(reward_func, str | nn.Module):
        return reward_func
    name = get_callable_name(reward_func)
    wrapped = (_awaited if is_async_callable(reward_func) else _called)(reward_func, name, retries)
    wrapped.__name__ = name
    return wrapped


def _called(reward_func: Callable[..., Any], name: str, retries: int) -> Callable[..., Any]:
    def call(**kwargs: Any) -> Any:
        for failed in range(retries + 1):
            try:
                return _given(reward_func(**kwargs), name)
            except Exception as error:
                time.sleep(_wait_after(error, name, failed, retries, kwargs))
        raise AssertionError("the last failure raises")

    return call


def _awaited(reward_func: Callable[..., Any], name: str, retries: int) -> Callable[..., Any]:
    async def call(**kwargs: Any) -> Any:
        for failed in range(retries + 1):
            try:
                return _given(await reward_func(**kwargs), name)
            except Exception as error:
                await asyncio.sleep(_wait_after(error, name, failed, retries, kwargs))
        raise AssertionError("the last failure raises")

    return call


def _given(rewards: Any, name: str) -> Any:
    if rewards is None:
        raise UserError(f"The reward function {name!r} returned None; return one number per completion.")
    return rewards


def _wait_after(error: Exception, name: str, failed: int, retries: int, kwargs: dict[str, Any]) -> float:
    """Seconds until the next try after `failed` earlier failures; raises UserError where there is none left."""
    if isinstance(error, UserError):
        raise error
    what = f"The reward function {name!r} raised {type(error).__name__}: {error}"
    if failed < retries:
        wait = FIRST_WAIT * 2**failed
        logger.warning(f"{what}; try {failed + 2} of {retries + 1} in {wait:g} s.")
        return wait
    raise UserError(f"{what}; it is called with {', '.join(kwargs)} by name.") from error
