"""Locks that hold between the processes of one machine, and between machines that share a file system.

On one machine the system's lock decides; it ends with its process. Some network file systems keep such locks on every
machine for itself, without a word, so the holder also keeps a record beside the lock, with its machine, and renews it.
Another machine takes the lock over once the record was not renewed for ABANDONED seconds. That needs of the file system
what NFS has: exclusive creation, atomic renaming, and that an opened file has what was written and closed before.
"""

import errno
import logging
import os
import socket
import threading
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from mapft.utils.errors import UserError

logger = logging.getLogger(__name__)

RENEWAL, ABANDONED = 5.0, 60.0  # seconds
ANY_TIME, AT_ONCE = -1, 0  # how long FileLock waits
GONE = {errno.ENOENT, errno.ESTALE}  # also where another machine has removed the file
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


class LockHeld(Exception):
    """Another process, named by the message, holds the lock."""


class Record(NamedTuple):
    """Who holds a lock, as PID@MACHINE, and when the record was renewed, ns."""

    owner: str
    renewed: int


class SharedLock:
    """The lock `path`, with the record `path`.owner; as a context manager it waits until it holds it."""

    def __init__(self, path: Path) -> None:
        self.path, self.record = path, path.with_name(f"{path.name}.owner")
        self._lock, self._name, self._released = FileLock(path), own_name(), threading.Event()

    def acquire(self, *, wait: bool) -> "SharedLock":
        """Hold the lock. Without `wait`, LockHeld where another process has it; UserError where there are no locks."""
        try:
            self._lock.acquire(timeout=ANY_TIME if wait else AT_ONCE)
        except Timeout as error:
            raise LockHeld("another process") from error
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            raise UserError(
                f"{self.path} cannot be locked ({error}); choose output=..., or the environment variable MAPFT_CACHE, "
                "on a file system that has locks."
            ) from error
        try:
            self._claim(wait)
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
        if (held := self._read()) and held.owner == self._name:
            self.record.unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> "SharedLock":
        """Wait for the lock."""
        return self.acquire(wait=True)

    def __exit__(self, *error: object) -> None:
        """Release it."""
        self.release()

    def _claim(self, wait: bool) -> None:
        """Create the record, once no other process has one."""
        told = taken_over = False
        while True:
            held = self._read()
            if held is None:
                if self._create():
                    if taken_over:  # another machine, which saw the same, may have removed this record
                        time.sleep(RENEWAL)
                    if (held := self._read()) and held.owner == self._name:
                        return
            elif machine_of(held.owner) == machine_of(self._name):  # its process has died: the lock was free
                self._remove(held)
            else:
                if not told:
                    logger.warning(f"{held.owner} holds {self.path}; in {ABANDONED:.0f} s it is known whether it runs.")
                told = True
                if self._abandoned(held):
                    self._remove(held)
                    taken_over = True
                elif not wait and (held := self._read()):
                    raise LockHeld(f"the process {held.owner}")

    def _create(self) -> bool:
        try:
            with self.record.open("x") as record:
                record.write(self._name)
        except FileExistsError:
            return False
        return True

    def _abandoned(self, held: Record) -> bool:
        """Whether the record stays as it is for ABANDONED seconds in which this process runs."""
        poll = RENEWAL / 5
        for _ in range(round(ABANDONED / poll)):
            time.sleep(poll)
            if self._read() != held:
                return False
        return True

    def _remove(self, held: Record) -> None:
        """Remove this record, and no other one that has come in its place."""
        removed = self.record.with_name(f"{self.record.name}.{self._name}")
        try:
            self.record.rename(removed)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return
        if _read(removed) != held:
            removed.rename(self.record)
        removed.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL):
            try:
                held = self._read()
                if held is None or held.owner != self._name:
                    logger.error(
                        f"{self.path} was taken over by {held.owner if held else 'another process'}, because this "
                        f"process did not renew it for {ABANDONED:.0f} s; end one of the two."
                    )
                    return
                os.utime(self.record)
            except OSError as error:
                logger.warning(f"{self.record} cannot be renewed ({error}); another machine may take the lock over.")

    def _read(self) -> Record | None:
        return _read(self.record)


def _read(path: Path) -> Record | None:
    """The record, of an opened file, as a network file system may remember an older state of others."""
    try:
        with path.open() as file:
            return Record(file.read(), os.fstat(file.fileno()).st_mtime_ns)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None


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
