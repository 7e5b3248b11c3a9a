"""Requests to servers, which may be on other machines: their token, and retries where an error is temporary."""

import os
from collections.abc import Callable

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from mapft.utils.errors import UserError

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the second attempt; each further wait is twice as long
TEMPORARY_STATUSES = {408, 425, 429, 500, 502, 503, 504}


def authorization(variable: str) -> dict[str, str]:
    """Headers with the token in this environment variable; none where it is unset. UserError unless it is ASCII."""
    token = os.environ.get(variable, "").strip()
    if not token.isascii():
        raise UserError(f"The token in {variable} is not ASCII, as HTTP headers require; correct it.")
    return {"Authorization": f"Bearer {token}"} if token else {}


def retrying(retries: int, is_temporary: Callable[[BaseException], bool]) -> Retrying:
    """Calls a function until it succeeds, or raises its last error after so many attempts beyond the first."""
    return Retrying(
        stop=stop_after_attempt(retries + 1),
        wait=wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        retry=retry_if_exception(is_temporary),
        reraise=True,
    )
