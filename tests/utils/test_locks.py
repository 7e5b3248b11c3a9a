"""Locks. Truth: one holder at a time, also on a file system that, as some network ones, keeps locks on each machine."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from filelock import FileLock

from mapft.utils import locks
from mapft.utils.errors import UserError
from mapft.utils.locks import LockHeld, SharedLock

HOLD = """
import sys, time
from pathlib import Path
from mapft.utils import locks
locks.RENEWAL, locks.ABANDONED = 0.1, 5.0
try:
    locks.SharedLock(Path(sys.argv[1])).acquire(wait=False)
except locks.LockHeld as error:
    sys.exit(str(error))
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def holding(path, machine=""):
    """A process that has asked for the lock without waiting, on a machine of this name."""
    on_machine = ["unshare", "--uts", "sh", "-c", f'hostname {machine}; exec "$@"', "sh"] if machine else []
    command = [*on_machine, sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def mounts(tmp_path):
    """One folder, mounted twice so that neither mount sees the locks of the other."""
    if not (shutil.which("bindfs") and os.access("/dev/fuse", os.W_OK)):
        pytest.skip("bindfs is not installed, or FUSE is not available")
    if subprocess.run(["unshare", "--uts", "hostname", "other"], capture_output=True, check=False).returncode:
        pytest.skip("a process cannot have its own host name here")
    paths = [tmp_path / name for name in ("folder", "one", "two")]
    for path in paths:
        path.mkdir()
    with ExitStack() as mounted:
        for path in paths[1:]:
            done = subprocess.run(["bindfs", str(paths[0]), str(path)], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"FUSE is not available here: {done.stderr}")
            mounted.callback(subprocess.run, ["umount", "--lazy", str(path)], check=True)
        yield paths[1:]


def test_another_process_does_not_get_the_lock_until_the_first_has_died(tmp_path):
    with holding(tmp_path / "lock") as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockHeld, match="another process"):
            SharedLock(tmp_path / "lock").acquire(wait=False)
        process.send_signal(signal.SIGKILL)
        process.wait()
        begin = time.monotonic()
        with SharedLock(tmp_path / "lock"):
            assert time.monotonic() - begin < locks.ABANDONED
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_another_machine_does_not_get_the_lock_until_the_first_has_died(mounts):
    """The system's lock alone is granted on both."""
    one, two = mounts
    with FileLock(one / "other"), FileLock(two / "other").acquire(timeout=0):
        pass
    with holding(one / "lock", "first") as first:
        assert first.stdout.readline() == "held\n"
        with holding(two / "lock", "second") as second:
            _, error = second.communicate(timeout=60)
            assert f"the process {first.pid}@first-" in error
        first.send_signal(signal.SIGKILL)
        first.wait()
        with holding(two / "lock", "second") as second:
            assert second.stdout.readline() == "held\n"
            with holding(one / "lock", "first") as third:
                assert f"the process {second.pid}@second-" in third.communicate(timeout=60)[1]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(locks, "RENEWAL", 0.1)
    monkeypatch.setattr(locks, "ABANDONED", 1.0)


def test_of_machines_that_wait_for_a_lock_one_at_a_time_gets_it(tmp_path, quick, monkeypatch):
    """Threads as three machines, without locks of the system; a fourth machine has left a record.

    The one that holds the lock keeps it for longer than an abandoned record stays.
    """
    monkeypatch.setattr(locks, "machine", lambda: threading.current_thread().name)
    (tmp_path / "lock.owner").write_text("1@fourth")
    inside, most = [], []

    def work(number):
        lock = SharedLock(tmp_path / "lock")
        lock._lock = FileLock(tmp_path / f"lock-{number}")
        with lock:
            inside.append(number)
            most.append(len(inside))
            time.sleep(1.5)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=[number], name=f"machine{number}") for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1, 1, 1]
    assert not (tmp_path / "lock.owner").exists()


def test_a_lock_that_is_not_granted_is_not_kept(tmp_path, quick):
    record = tmp_path / "lock.owner"
    record.write_text("1@another")
    renewal = threading.Timer(0.2, os.utime, [record])
    renewal.start()
    with pytest.raises(LockHeld, match="the process 1@another"):
        SharedLock(tmp_path / "lock").acquire(wait=False)
    with FileLock(tmp_path / "lock").acquire(timeout=0):
        pass


def test_a_lock_that_becomes_free_while_it_is_watched_is_granted(tmp_path, quick):
    record = tmp_path / "lock.owner"
    record.write_text("1@another")
    end = threading.Timer(0.2, record.unlink)
    end.start()
    SharedLock(tmp_path / "lock").acquire(wait=False).release()


def test_a_record_that_has_come_in_the_place_of_an_abandoned_one_stays(tmp_path):
    lock = SharedLock(tmp_path / "lock")
    lock.record.write_text("1@dead")
    abandoned = lock._read()
    lock.record.write_text("2@alive")
    lock._remove(abandoned)
    assert lock.record.read_text() == "2@alive"
    lock._remove(lock._read())
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_has_lost_its_lock_says_so(tmp_path, quick, caplog):
    with SharedLock(tmp_path / "lock") as lock:
        lock.record.write_text("2@another")
        while not caplog.messages:
            time.sleep(0.01)
    assert "was taken over by 2@another, because this process did not renew it for 1 s" in caplog.text
    assert lock.record.read_text() == "2@another"


def test_a_file_system_without_locks_is_one_sentence(tmp_path, monkeypatch):
    lock = SharedLock(tmp_path / "lock")
    monkeypatch.setattr(lock._lock, "acquire", raising(OSError(errno.ENOLCK, "No locks available")))
    with pytest.raises(UserError, match=r"lock cannot be locked .*No locks available.*choose output="):
        lock.acquire(wait=True)


def raising(error):
    def call(**_):
        raise error

    return call
