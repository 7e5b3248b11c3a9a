"""Secrets are kept out of what is written and printed: files of a run, pages, trackers, error messages."""

import re
from typing import Any

# What the name of a secret ends with.
NAMES = r"(?:api_?keys|key|token|secrets?|passwords?|passwd|pwd|credentials?|authorization)"
QUOTED = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\""""
BARE = r"(?:[^}\],]|,(?!\s*[\w'\"]+\s*:))+"  # up to the end of the word, of its braces, or the next name in them


def masked(settings: Any) -> Any:
    """Plain settings without what a name like api_key or token holds, and without secrets in addresses."""
    if isinstance(settings, dict):
        return {k: "***" if _secret(k) and v not in (None, "") else masked(v) for k, v in settings.items()}
    if isinstance(settings, list | tuple):
        return [masked(each) for each in settings]
    return masked_addresses(settings) if isinstance(settings, str) else settings


def masked_command(word: str) -> str:
    """`masked` of one word of a command, for example +rewards.polite={path: x, api_key: ***}."""
    value = rf"({NAMES}['\"]?\s*[=:]\s*)(?:{QUOTED}|{BARE})"
    return masked_addresses(re.sub(value, r"\1***", word, flags=re.IGNORECASE))


def masked_addresses(text: str) -> str:
    """http://user:***@host/path?token=*** for the password and the token of an address."""
    text = re.sub(r"(://[^/\s:@]*:)[^/\s]+@", r"\1***@", text)
    text = re.sub(r"(://)[^/\s:@]+@", r"\1***@", text)  # a token in the user's place
    return re.sub(rf"([?&][\w-]*{NAMES}=)[^&\s'\"]+", r"\1***", text, flags=re.IGNORECASE)


def _secret(name: Any) -> bool:
    return re.search(f"{NAMES}$", str(name), re.IGNORECASE) is not None
