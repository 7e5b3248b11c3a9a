"""The exception for a user's mistake, and the message for a file that cannot be read or written."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

TORCH_SAVE = re.compile("failed writing file|iostream error")  # how torch.save says that a disk is full
OUT_OF_MEMORY = re.compile("OutOfMemory|out of memory|can't allocate memory|CUDNN_STATUS_NOT_SUPPORTED")
LOST = re.compile(  # of torch.distributed
    "gloo/transport|recvValue failed|remote process has terminated|ncclRemoteError"
)
NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS}


class UserError(ValueError):
    """A mistake that the user can correct.

    The message is one sentence: what is wrong (with the offending value), why, and what to do instead.
    The command line prints it without a traceback and exits with code 2; any other exception is internal (code 1).
    """


@contextmanager
def working_on(source: str, problem: str = "cannot be used") -> Iterator[None]:
    """Inside, libraries work on input of the user: whatever they raise is a UserError, "{source} {problem}: ...".

    source: what the user gave, with the name of its setting. What is not about the input is raised as it is: memory
    that runs out, and files that cannot be opened or written (`file_error`).
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(f"{type(error)} {error}") or file_error(error):
            raise
        raise UserError(f"{source} {problem}: {reason(error).rstrip('.')}.") from error


def reason(error: BaseException) -> str:
    """The message of an error on one line, with its type where the message alone may say little."""
    named = not isinstance(error, ValueError | OSError | ImportError)
    return " ".join(f"{f'{type(error).__name__}: ' if named else ''}{error}".split())


def first_sentence(error: BaseException) -> str:
    """What a library's error says first, as a part of a UserError's sentence."""
    return str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")


def lost_process(error: BaseException | None) -> bool:
    """Whether a collective operation failed because another process of the run has ended."""
    while error is not None:
        if isinstance(error, RuntimeError) and LOST.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def file_error(error: BaseException | None) -> str:
    """The message for a file that cannot be opened or written, whichever library raised the error; else empty."""
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename} cannot be opened ({error.strerror}); give yourself access, or name another folder."
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if found := re.search(r"\(os error (\d+)\)", str(error)):  # of safetensors
            number = int(found[1])
        if number == errno.ENAMETOOLONG:
            return f"{getattr(error, 'filename', None)} is too long a name for a file; choose a shorter one."
        if number in NO_ROOM or TORCH_SAVE.search(str(error)):
            name = error.filename if isinstance(error, OSError) and error.filename else "A file of the run"
            why = os.strerror(number) if number in NO_ROOM else "the disk took no more"
            return f"{name} cannot be written ({why}); free space or choose output=..., and repeat the command."
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return ""
