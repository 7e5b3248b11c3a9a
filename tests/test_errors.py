"""Whose fault it was. Truth: what the operating system raises."""

import errno
import os

import pytest

from mapft.errors import unwritable


def chained(first: Exception, then: Exception, quietly: bool = False) -> Exception:
    """`then`, raised while `first` was handled."""
    try:
        try:
            raise first
        except type(first) as error:
            raise then from (None if quietly else error)
    except type(then) as error:
        return error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")


def test_a_full_disk_is_told_whoever_met_it():
    assert unwritable(FULL).startswith("/data/x cannot be written (No space left on device); free space")
    assert "/data/x cannot be written" in unwritable(chained(FULL, RuntimeError("saving failed")))
    assert "File too large" in unwritable(RuntimeError("I/O error: File too large (os error 27)"))
    assert "cannot be written" in unwritable(RuntimeError("PytorchStreamWriter failed writing file data/0"))


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ProcessLookupError(errno.ESRCH, "No such process"),
        PermissionError(errno.EPERM, "Operation not permitted"),
        chained(FULL, KeyError("ours"), quietly=True),
        chained(PermissionError(errno.EACCES, "Permission denied", "/etc/shadow"), KeyError("ours")),
        FileNotFoundError(errno.ENOENT, "No such file", "gone"),
        RuntimeError("(os error 2)"),
    ],
)
def test_other_errors_stay_ours(error):
    assert unwritable(error) == ""


def test_a_file_that_may_not_be_read_is_not_a_full_disk():
    said = unwritable(PermissionError(errno.EACCES, "Permission denied", "/data/config.json"))
    assert said.startswith("/data/config.json cannot be opened (Permission denied)")
