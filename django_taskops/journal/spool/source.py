"""Takes events from the files of this host's processes, dead ones included, for whoever drains."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from .. import forks
from ..base import Backlog, Entry, is_full
from .backlog import backlog_of, dropped_in, entry_of, oldest_in
from .collector import Collector
from .folder import add_dropped, make_private, segments, start_counting, unread
from .segment_files import WrittenSegment
from .segments import ForeignFile, Header, Piece

POLL_SECONDS = 0.05
SECONDS_BETWEEN_SWEEPS = 1.0

logger = logging.getLogger("django_taskops")


class SpoolSource:
    """Whoever has locked the folder reads, file by file, the oldest first; between files, the order is that of the
    files. An event may come again after a crash, and none is passed over: what is broken comes as it is.

    A file that can't be read, or is of another release's format, is left alone; the log says so once. Not thread-safe.
    """

    name = "spool"

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._collector: Collector | None = None
        self._ends: dict[str, tuple[Path, int]] = {}  # of what was read last, by key
        self._idle: dict[Path, int] = {}  # files with nothing to read, by the size they had then
        self._sweep_at = 0.0
        self._logged: set[Path] = set()

    def hold(self) -> bool:
        """Raises RefusedFolder for a folder that is not ours alone, other OSErrors where none can be made."""
        folder = self._folder()
        if self._collector is not None:
            if self._collector.folder == folder and self._collector.is_current():
                return True
            self.release()
        make_private(folder)
        self._collector = Collector.take(folder)
        if self._collector is None:
            return False
        with suppress(OSError):  # a full disk is a reason to read
            start_counting(folder)
        return True

    def release(self) -> None:
        if self._collector is not None:
            self._collector.release()
            self._collector = None

    def read(self, limit: int, wait: float) -> Sequence[Entry]:
        """Raises OSError where there is no folder."""
        deadline = time.monotonic() + wait
        while not (entries := self._read(limit)) and (left := deadline - time.monotonic()) > 0:
            with forks.let_through():
                time.sleep(min(POLL_SECONDS, left))
        return entries

    def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Raises OSError, with what is not yet removed to be read again."""
        ends: dict[Path, int] = {}
        for entry in entries:
            path, end = self._ends[entry.key]
            ends[path] = max(end, ends.get(path, 0))
        for path, end in ends.items():
            with suppress(FileNotFoundError):
                self._consume(path, end)

    def mark(self) -> datetime:
        return datetime.now(UTC)

    def has_passed(self, mark: datetime) -> bool:
        oldest = oldest_in(self._folder())
        return oldest is None or oldest > mark

    def is_waiting(self) -> bool:
        """Holds the folder where nobody else does, so that writers know that it will be read."""
        return self.hold() and unread(self._folder()) > 0

    def dropped(self) -> int:
        return dropped_in(self._folder())

    def backlog(self) -> Backlog:
        return backlog_of(self._folder())

    def _read(self, limit: int) -> list[Entry]:
        self._sweep()
        self._ends = {}
        entries: list[Entry] = []
        folder = self._folder()
        for name, size in segments(folder).items():
            path = folder / name
            if self._idle.get(path) == size:
                continue
            for piece in self._pieces(path, size, limit - len(entries)):
                entry = entry_of(path, piece)
                self._ends[entry.key] = path, piece.end
                entries.append(entry)
            if len(entries) == limit or is_full(entries):
                break
        return entries

    def _sweep(self) -> None:
        """Files without news are opened once a second: their writers may be gone."""
        now = time.monotonic()
        if now >= self._sweep_at:
            self._idle.clear()
            self._sweep_at = now + SECONDS_BETWEEN_SWEEPS

    def _pieces(self, path: Path, size: int, limit: int) -> Sequence[Piece]:
        try:
            with WrittenSegment(path) as segment:
                header = segment.header()
                if header is None:
                    segment.delete_unborn()
                    return ()
                final = segment.is_final()  # asked first: what is read then is all there will ever be
                found = list(islice(segment.pieces(header.consumed, final=final), limit))
                if final and segment.size() <= header.consumed:
                    self._delete(path, header)
                elif not found:
                    self._idle[path] = size
                return found
        except FileNotFoundError:
            return ()
        except (OSError, ForeignFile) as error:
            self._idle[path] = size
            self._log(path, error)
            return ()

    def _consume(self, path: Path, end: int) -> None:
        with WrittenSegment(path) as segment:
            header = segment.header()
            if header is None:
                return
            segment.consume(max(end, header.consumed))
            if segment.is_final() and segment.size() <= end:
                self._delete(path, header)

    def _delete(self, path: Path, header: Header) -> None:
        """Its writer is gone and all of it has been applied."""
        try:
            if header.dropped:
                add_dropped(path.parent, header.dropped, path.name)
        except OSError as error:  # room on the disk is worth more than a count
            self._log(path, error)
        path.unlink(missing_ok=True)

    def _log(self, path: Path, error: Exception) -> None:
        if path not in self._logged:
            self._logged.add(path)
            logger.warning("django-taskops: %s: %r", path, error)
