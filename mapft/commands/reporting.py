"""Errors as one line on stderr."""

import sys

from mapft.utils.errors import UserError, file_error, lost_process
from mapft.utils.redact import redact_urls


def report(error: BaseException, job: str = "") -> int:
    """Print an error as one line; returns the exit code: 2 for invalid input, 1 for an internal error.

    job: overrides of the sweep's job that failed.
    """
    from mapft.config.compose import describe_error, is_composition_error

    if lost_process(error):
        lost = "another process of this run has ended or cannot be reached"
        print(f"mapft: {lost}; see its log, and repeat the command to continue.", file=sys.stderr)
        return 1
    about_file = "" if isinstance(error, UserError) else file_error(error)
    internal = not about_file and not isinstance(error, UserError) and not is_composition_error(error)
    sentence = redact_urls(about_file or describe_error(error))
    prefix = f"{job}: " if job else ""
    print(f"mapft: {prefix}{f'{type(error).__name__}: ' if internal else ''}{sentence}", file=sys.stderr)
    if internal:
        print("mapft: this is an internal error; --debug prints its traceback.", file=sys.stderr)
    return 1 if internal else 2
