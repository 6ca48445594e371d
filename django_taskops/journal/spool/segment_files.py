"""The spool's files on the disk: the one that a process appends to, and any of them as the reader sees it.

The writer holds flock(LOCK_EX) from before the header is complete until it leaves the file, or dies. So a file with a
header whose lock is to be had will never grow again.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ..descriptors import close_file, open_file
from .segments import CONSUMED_AT, DROPPED_AT, HEADER, NUMBER, Header, Piece, header_of, new_header, pieces, record_of

SUFFIX = ".spool"
ATTEMPTS = 3


def lock(descriptor: int, kind: int) -> bool:
    """False where the lock of another open file excludes it; never waits."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class GrowingSegment:
    """The file that this process appends to. Not thread-safe. `size` is in bytes, `folder` where it lies."""

    def __init__(self, folder: Path, position: int) -> None:
        """Makes the file; `position`, that of its first record, leads its name, so that names sort by age. Raises
        OSError."""
        self.folder = folder
        self.size = HEADER.size
        self._dropped = 0
        self._descriptor = _create(folder, position)

    def append(self, payload: bytes, position: int) -> None:
        """All of it or nothing: raises OSError where the disk is full, and the file is as it was before."""
        record = record_of(payload, position)
        try:
            _write(self._descriptor, record, self.size)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(record)

    def count_dropped(self, count: int) -> None:
        """Never raises: the process counts as well."""
        self._dropped += count
        with suppress(OSError):
            _write(self._descriptor, NUMBER.pack(self._dropped), DROPPED_AT)

    def is_consumed(self) -> bool:
        """True where all of it has been applied. Raises OSError."""
        (consumed,) = NUMBER.unpack(os.pread(self._descriptor, NUMBER.size, CONSUMED_AT))
        return bool(consumed >= self.size)

    def is_deleted(self) -> bool:
        """True where somebody has tidied the folder up. Raises OSError."""
        return os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> None:
        """Leaves the file to the reader."""
        close_file(self._descriptor)


def _create(folder: Path, position: int) -> int:
    for _ in range(ATTEMPTS):
        path = folder / f"{position:020d}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        descriptor = open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            if _own(descriptor):
                return descriptor
        except BaseException:
            path.unlink(missing_ok=True)
            close_file(descriptor)
            raise
        close_file(descriptor)
    raise OSError(errno.EAGAIN, "expected a file of our own, the reader took each for an orphan")


def _own(descriptor: int) -> bool:
    """False where the reader was faster: it deletes files that have neither header nor owner."""
    if not lock(descriptor, fcntl.LOCK_EX) or os.fstat(descriptor).st_nlink == 0:
        return False
    _write(descriptor, new_header(), 0)
    return True


class WrittenSegment:
    """A file as the reader sees it. A context manager: the file is open inside of it."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Raises OSError, FileNotFoundError where it has been deleted meanwhile."""
        self.path = path
        self._descriptor = open_file(path, os.O_RDONLY if read_only else os.O_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        close_file(self._descriptor)

    def header(self) -> Header | None:
        """None where its writer has not come that far. Raises OSError, ForeignFile; PermissionError for another's."""
        if (user := os.fstat(self._descriptor).st_uid) != os.geteuid():
            raise PermissionError(errno.EPERM, f"expected a file of user {os.geteuid()}, got one of {user}")
        return header_of(os.pread(self._descriptor, HEADER.size, 0))

    def is_final(self) -> bool:
        """True where its writer is gone for good. Only for a file with a header."""
        free = lock(self._descriptor, fcntl.LOCK_SH)
        if free:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return free

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def pieces(self, start: int, *, final: bool) -> Iterator[Piece]:
        """From offset `start` on. `final`, asked before, lets a broken end count as a piece."""
        data = os.pread(self._descriptor, max(self.size() - start, 0), start)
        return pieces(data, start, int(self.path.name.partition("-")[0]), final=final)

    def consume(self, end: int) -> None:
        """What stands before offset `end` has been applied. Raises OSError."""
        _write(self._descriptor, NUMBER.pack(end), CONSUMED_AT)

    def delete_unborn(self) -> None:
        """Deletes the file of a process that died before it wrote the header."""
        if lock(self._descriptor, fcntl.LOCK_EX) and self.header() is None:
            self.path.unlink(missing_ok=True)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    written = os.pwrite(descriptor, data, offset)
    if written != len(data):
        raise OSError(errno.ENOSPC, f"expected {len(data)} bytes to be written, got {written}")
