"""Locks that hold between the processes of one machine, and between machines that share a file system.

On one machine the system's lock decides; it ends with its process. Some network file systems keep such locks on every
machine for itself, without a word, so the holder also keeps a record beside the lock, with its machine, and renews it.
Another machine takes the lock over once the record was not renewed for ABANDONED seconds. That needs of the file system
what NFS has: exclusive creation, atomic renaming, and that an opened file has what was written and closed before.
"""

import logging
import os
import socket
import threading
import time
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

RENEWAL, ABANDONED = 5.0, 30.0  # seconds
ANY_TIME, AT_ONCE = -1, 0  # how long FileLock waits


class Held(Exception):
    """Another process, named by the message, holds the lock."""


class SharedLock:
    """The lock `path`, with the record `path`.owner; as a context manager it waits until it holds it."""

    def __init__(self, path: Path) -> None:
        self.record = path.with_name(f"{path.name}.owner")
        self._lock, self._released = FileLock(path), threading.Event()
        self._name, self._renewals = own_name(), 0

    def acquire(self, *, wait: bool) -> "SharedLock":
        """Hold the lock. Without `wait`, Held where another process has it."""
        try:
            self._lock.acquire(timeout=ANY_TIME if wait else AT_ONCE)
        except Timeout as error:
            raise Held("another process") from error
        try:
            while not self._claim():
                if not self._abandoned() and not wait:
                    raise Held(f"the process {self._owner()}")
        except BaseException:
            self._lock.release()
            raise
        self._released.clear()
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._renewal.start()
        return self

    def release(self) -> None:
        """Remove the record and end the lock."""
        self._released.set()
        self._renewal.join()
        if self._owner() == self._name:
            self.record.unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> "SharedLock":
        """Wait for the lock."""
        return self.acquire(wait=True)

    def __exit__(self, *error: object) -> None:
        """Release it."""
        self.release()

    def _claim(self) -> bool:
        """Create the record, in the place of one that a process of this machine left when it died."""
        if machine_of(self._owner()) == machine_of(self._name):
            self.record.unlink(missing_ok=True)
        try:
            with self.record.open("x") as record:
                record.write(self._text())
        except FileExistsError:
            return False
        return True

    def _abandoned(self) -> bool:
        """Whether the record stays as it is for ABANDONED seconds; it is removed then."""
        text, begin = self._read(), time.monotonic()
        lock = self.record.with_suffix("")
        logger.warning(f"{self._owner()} holds {lock}; within {ABANDONED:.0f} s it is known whether it still runs.")
        while time.monotonic() - begin < ABANDONED:
            time.sleep(RENEWAL / 5)
            if self._read() != text:
                return False
        stale = self.record.with_name(f"{self.record.name}.{self._name}")
        try:
            self.record.rename(stale)  # of several machines, one can
        except FileNotFoundError:
            return False
        stale.unlink()
        return True

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL):
            if self._owner() == self._name:
                self._renewals += 1
                self.record.write_text(self._text())

    def _text(self) -> str:
        return f"{self._name} {self._renewals}"

    def _read(self) -> str:
        try:
            return self.record.read_text()
        except FileNotFoundError:
            return ""

    def _owner(self) -> str:
        return self._read().partition(" ")[0]


def own_name() -> str:
    """This process, as PID@MACHINE."""
    return f"{os.getpid()}@{machine()}"


def machine_of(name: str) -> str:
    """The machine of an `own_name`."""
    return name.partition("@")[2]


@cache
def machine() -> str:
    """The host name and, where the system has one, the number of its last start: two machines can have one name."""
    start = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}-{start.read_text()[:8]}" if start.exists() else socket.gethostname()
