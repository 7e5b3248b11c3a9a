"""What requests to language models on other machines have used in this process, by value."""

import threading
from dataclasses import dataclass


@dataclass
class Usage:
    """Requests, tokens as the server counts them, and their cost in the currency of the prices."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


_LOCK = threading.Lock()
_USAGE: dict[str, Usage] = {}


def count(name: str, prompt_tokens: int, completion_tokens: int, cost: float) -> None:
    """Add a request for value `name`."""
    with _LOCK:
        usage = _USAGE.setdefault(name, Usage())
        usage.requests += 1
        usage.prompt_tokens += prompt_tokens
        usage.completion_tokens += completion_tokens
        usage.cost += cost


def take_sentences() -> list[str]:
    """A sentence per value with requests; they are not counted again."""
    with _LOCK:
        used = dict(_USAGE)
        _USAGE.clear()
    return [
        f"rewards.{name}: {usage.requests:,} requests with {usage.prompt_tokens:,} tokens, and "
        f"{usage.completion_tokens:,} tokens in the replies" + (f", cost {usage.cost:.4g}." if usage.cost else ".")
        for name, usage in used.items()
    ]
