"""Errors that are shown to the user. Truth: the errors that the operating system and libraries raise."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mapft.utils.errors import UserError, file_error, lost_process, working_on


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


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("too\nlarge."), "model.path=m cannot be used: too large."),
        (KeyError("rope"), "model.path=m cannot be used: KeyError: 'rope'."),
        (SystemExit(3), "model.path=m cannot be used: SystemExit: 3."),
        (UserError("Give another."), "Give another."),
    ],
)
def test_what_a_library_raises_over_input_of_the_user_names_the_input(error, sentence):
    with pytest.raises(UserError) as caught, working_on("model.path=m"):
        raise error
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("of the device"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        FULL,
        KeyboardInterrupt(),
    ],
)
def test_what_is_not_about_the_input_is_raised_as_it_is(error):
    with pytest.raises(type(error)) as caught, working_on("model.path=m"):
        raise error
    assert caught.value is error


def collective(rank: int, store: str) -> None:
    """Process 1 of two ends after their first collective operation; process 0 says whether it knows that."""
    from torch import distributed

    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    distributed.barrier()
    if rank == 1:
        os._exit(0)
    try:
        for _ in range(100):
            distributed.all_reduce(torch.ones(1000))
    except Exception as error:
        print(lost_process(chained(error, UserError("The reward function raised it."))))


def test_the_loss_of_another_process_is_recognised(tmp_path):
    code = f"from {__name__} import collective; import sys; collective(int(sys.argv[1]), sys.argv[2])"
    commands = [[sys.executable, "-c", code, str(rank), str(tmp_path / "store")] for rank in (0, 1)]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True, cwd=root) for each in commands]
    told = [process.communicate(timeout=120)[0].split() for process in processes]
    assert told == [["True"], []]
    assert lost_process(RuntimeError("ncclRemoteError: A call failed possibly due to a network error"))
    assert not lost_process(chained(ConnectionResetError("Connection reset by peer"), UserError("The judge is away.")))
