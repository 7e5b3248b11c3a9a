"""Reward functions whose failures are one sentence with their name."""

from collections.abc import Callable
from typing import Any

from torch import nn
from trl.trainer.utils import get_callable_name, is_async_callable

from mapft.errors import UserError


def named_failures(reward_func: Any) -> Any:
    """The same function; what it raises becomes a UserError that names it. Models stay as they are.

    A wrong number of rewards is TRL's to refuse, and a reward that is not finite the trainer's; both name the function.
    """
    if isinstance(reward_func, str | nn.Module):
        return reward_func
    name = get_callable_name(reward_func)
    wrapped = _awaited(reward_func, name) if is_async_callable(reward_func) else _called(reward_func, name)
    wrapped.__name__ = name
    return wrapped


def _called(reward_func: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(**kwargs: Any) -> Any:
        try:
            return reward_func(**kwargs)
        except Exception as error:
            raise _sentence(name, error, kwargs) from error

    return call


def _awaited(reward_func: Callable[..., Any], name: str) -> Callable[..., Any]:
    async def call(**kwargs: Any) -> Any:
        try:
            return await reward_func(**kwargs)
        except Exception as error:
            raise _sentence(name, error, kwargs) from error

    return call


def _sentence(name: str, error: Exception, kwargs: dict[str, Any]) -> UserError:
    if isinstance(error, UserError):
        return error
    return UserError(
        f"The reward function {name!r} raised {type(error).__name__}: {error}; it is called with {', '.join(kwargs)} "
        "by name."
    )
