"""Who collects what lies in a folder of the spool: the process that has locked `collector.lock` in it."""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from ..descriptors import close_file, open_file
from .segment_files import lock

NAME = "collector.lock"
HOLDER_BYTES = 300


class Collector:
    """The lock, taken. It lasts until `release` or the end of this process; a forked child does not have it."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor
        self._pid = os.getpid()

    @classmethod
    def take(cls, folder: Path) -> "Collector | None":
        """None where somebody else has it. Never waits. Raises OSError."""
        collector = cls(folder, open_file(folder / NAME, os.O_RDWR | os.O_CREAT))
        try:
            if lock(collector._descriptor, fcntl.LOCK_EX) and collector.is_current():
                collector._sign()
                return collector
        except BaseException:
            collector.release()
            raise
        collector.release()
        return None

    def is_current(self) -> bool:
        """False in a child, and where the folder has another lock by now, or none: somebody has tidied up."""
        if self._pid != os.getpid():
            return False
        try:
            found = (self.folder / NAME).lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._descriptor))

    def release(self) -> None:
        if self._pid == os.getpid():
            close_file(self._descriptor)

    def _sign(self) -> None:
        with suppress(OSError):  # the lock counts; the name is for people
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{socket.gethostname()} {os.getpid()}"[:HOLDER_BYTES].encode(), 0)


def holder(folder: Path) -> str:
    """Host and process id of the collector, "" for none. Changes nothing. Raises OSError for a folder not ours."""
    try:
        descriptor = open_file(folder / NAME, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        # Shared, and for a moment: whoever asks at the same time does not take this for a collector.
        if lock(descriptor, fcntl.LOCK_SH):
            return ""
        return os.pread(descriptor, HOLDER_BYTES, 0).decode(errors="replace") or "?"
    finally:
        close_file(descriptor)
