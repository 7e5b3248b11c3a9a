"""Reward functions that are called again when they raise, and whose last error is one sentence with their name."""

from collections.abc import Callable
from typing import Any

from accelerate.logging import get_logger
from tenacity import RetryCallState, retry, retry_if_exception, stop_after_attempt, wait_exponential
from torch import nn

from mapft.ppo.trl_seam import function_name, is_async_callable
from mapft.utils.errors import UserError, lost_process

logger = get_logger(__name__)

FIRST_WAIT = 1.0  # seconds before the second call; each further wait is twice as long


def with_retries(reward_func: Any, retries: int = 0) -> Any:
    """The same function; what it raises in the last of `retries` further calls becomes a UserError that names it.

    Models are returned unchanged. A UserError is final, as a wrong setting is wrong in the next call too; so is
    the loss of another process, which is not the function's error. TRL refuses a wrong number of rewards, and the
    trainer a reward that is not finite; both name the function.
    """
    if isinstance(reward_func, str | nn.Module):
        return reward_func
    name = function_name(reward_func)

    def warn(state: RetryCallState) -> None:
        number, wait = state.attempt_number + 1, state.upcoming_sleep
        logger.warning(f"{_failure(name, state)}; call {number} of {retries + 1} follows in {wait:g} s.")

    def fail(state: RetryCallState) -> None:
        assert state.outcome is not None
        arguments = ", ".join(state.kwargs)
        error = f"{_failure(name, state)}; it is called with the keyword arguments {arguments}."
        raise UserError(error) from state.outcome.exception()

    def may_succeed(error: BaseException) -> bool:
        return isinstance(error, Exception) and not isinstance(error, UserError) and not lost_process(error)

    again = retry(
        retry=retry_if_exception(may_succeed),
        stop=stop_after_attempt(retries + 1),
        wait=wait_exponential(FIRST_WAIT),
        before_sleep=warn,
        retry_error_callback=fail,
    )
    return again(_checked(reward_func, name))


def _checked(reward_func: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Raises UserError where the function returns None."""

    def check(rewards: Any) -> Any:
        if rewards is None:
            raise UserError(f"The reward function {name!r} returned None; return one number per completion.")
        return rewards

    async def call_async(**kwargs: Any) -> Any:
        return check(await reward_func(**kwargs))

    def call(**kwargs: Any) -> Any:
        return check(reward_func(**kwargs))

    checked = call_async if is_async_callable(reward_func) else call
    checked.__name__ = name
    return checked


def _failure(name: str, state: RetryCallState) -> str:
    assert state.outcome is not None
    error = state.outcome.exception()
    return f"The reward function {name!r} raised {type(error).__name__}: {error}"
