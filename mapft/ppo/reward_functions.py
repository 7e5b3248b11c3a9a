"""Reward functions whose failures are one sentence with their name."""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from trl.trainer.utils import is_async_callable

from mapft.errors import UserError


def named_failures(reward_func: Any) -> Any:
    """The same function; what it raises becomes a UserError that names it. Models and async functions stay as they are.

    A wrong number of rewards is TRL's to refuse, and a reward that is not finite the trainer's; both name the function.
    """
    if isinstance(reward_func, str | nn.Module) or is_async_callable(reward_func):
        return reward_func
    return _wrapped(reward_func)


def _wrapped(reward_func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(reward_func, updated=())
    def call(**kwargs: Any) -> Any:
        try:
            return reward_func(**kwargs)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"The reward function {reward_func.__name__!r} raised {type(error).__name__}: {error}; it is called "
                f"with {', '.join(kwargs)} by name."
            ) from error

    return call
