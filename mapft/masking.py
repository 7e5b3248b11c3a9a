"""Secrets are kept out of what is written and printed: files of a run, pages, trackers, error messages."""

import re
from typing import Any

NAMES = r"(?:key|token|secret|password|credentials?)"  # what the name of a secret ends with


def masked(settings: Any) -> Any:
    """Plain settings without what a name like api_key or token holds, and without passwords in addresses."""
    if isinstance(settings, dict):
        named = {k: isinstance(v, str) and re.search(f"{NAMES}$", str(k), re.IGNORECASE) for k, v in settings.items()}
        return {k: "***" if named[k] else masked(v) for k, v in settings.items()}
    if isinstance(settings, list | tuple):
        return [masked(each) for each in settings]
    return masked_addresses(settings) if isinstance(settings, str) else settings


def masked_command(command: str) -> str:
    """`masked` of the words of a command."""
    return masked_addresses(re.sub(rf"({NAMES}\s*[=:]\s*)[^\s,}}'\"]+", r"\1***", command, flags=re.IGNORECASE))


def masked_addresses(text: str) -> str:
    """http://user:***@host for http://user:password@host."""
    return re.sub(r"(://[^/\s:@]*:)[^/\s@]+@", r"\1***@", text)
