"""Errors of the file system that are shown to the user. Truth: the errors that the operating system raises."""

import errno
import os

import pytest

from mapft.utils.errors import file_error


def chained(first: Exception, then: Exception, suppress: bool = False) -> Exception:
    """`then`, raised while `first` was handled."""
    try:
        try:
            raise first
        except type(first) as error:
            raise then from (None if suppress else error)
    except type(then) as error:
        return error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")


def test_a_full_disk_is_recognised_in_the_errors_of_all_libraries():
    assert file_error(FULL).startswith("/data/x cannot be written (No space left on device); free space")
    assert "/data/x cannot be written" in file_error(chained(FULL, RuntimeError("saving failed")))
    assert "File too large" in file_error(RuntimeError("I/O error: File too large (os error 27)"))
    assert "cannot be written" in file_error(RuntimeError("PytorchStreamWriter failed writing file data/0"))
    assert "cannot be written" in file_error(RuntimeError("basic_ios::clear: iostream error"))


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ProcessLookupError(errno.ESRCH, "No such process"),
        PermissionError(errno.EPERM, "Operation not permitted"),
        chained(FULL, KeyError("internal"), suppress=True),
        chained(PermissionError(errno.EACCES, "Permission denied", "/etc/shadow"), KeyError("internal")),
        FileNotFoundError(errno.ENOENT, "No such file", "gone"),
        RuntimeError("(os error 2)"),
    ],
)
def test_other_errors_have_no_message_for_the_user(error):
    assert file_error(error) == ""


def test_a_file_without_permission_is_named():
    message = file_error(PermissionError(errno.EACCES, "Permission denied", "/data/config.json"))
    assert message.startswith("/data/config.json cannot be opened (Permission denied)")
