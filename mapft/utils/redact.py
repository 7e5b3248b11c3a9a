"""Secrets are replaced by *** in run files, pages, trackers and error messages."""

import re
from typing import Any

SECRET_NAMES = r"(?:api_?keys|key|token|secrets?|passwords?|passwd|pwd|credentials?|authorization)"  # name endings
QUOTED_VALUE = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\""""
BARE_VALUE = r"(?:[^}\],]|,(?!\s*[\w'\"]+\s*:))+"  # up to the end of the word, a bracket, or the next name


def redact(settings: Any) -> Any:
    """Plain settings, with *** for the values of names such as api_key or token and for secrets in URLs."""
    if isinstance(settings, dict):
        return {k: "***" if _is_secret(k) and v not in (None, "") else redact(v) for k, v in settings.items()}
    if isinstance(settings, list | tuple):
        return [redact(item) for item in settings]
    return redact_urls(settings) if isinstance(settings, str) else settings


def redact_command(word: str) -> str:
    """`redact` for one word of a command line, for example +rewards.polite={path: x, api_key: ***}."""
    assignment = rf"({SECRET_NAMES}['\"]?\s*[=:]\s*)(?:{QUOTED_VALUE}|{BARE_VALUE})"
    return redact_urls(re.sub(assignment, r"\1***", word, flags=re.IGNORECASE))


def redact_urls(text: str) -> str:
    """The text with *** for passwords and tokens in its URLs: http://user:***@host/path?token=***."""
    text = re.sub(r"(://[^/\s:@]*:)[^/\s]+@", r"\1***@", text)
    text = re.sub(r"(://)[^/\s:@]+@", r"\1***@", text)  # a token in place of the user
    return re.sub(rf"([?&][\w-]*{SECRET_NAMES}=)[^&\s'\"]+", r"\1***", text, flags=re.IGNORECASE)


def _is_secret(name: Any) -> bool:
    return re.search(f"{SECRET_NAMES}$", str(name), re.IGNORECASE) is not None
