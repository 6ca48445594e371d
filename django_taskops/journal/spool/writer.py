"""Writes the spool's files in one folder, within its bound."""

import threading
import time
from pathlib import Path

from ...conf import KIB, MIB, conf
from .folder import make_private, unread, usage
from .segment_files import GrowingSegment
from .segments import PAYLOAD_AT

SEGMENT_BYTES = 1 * MIB
LEAST_SEGMENTS = 16  # to a full folder, so that what has been applied of a small one can go
WORTH_LEAVING_BYTES = 16 * KIB
SHARE_OF_EVENTS = 0.75  # of the bound; bad endings have the rest for themselves
SHARE_THAT_MATTERS = 0.5  # of the bound; below it, what lies in the files is not told from what waits in them
SECONDS_BETWEEN_LOOKS = 1.0
SHARE_OF_TIME = 0.01  # that looking may cost, however many files there are


class SpoolWriter:
    """One file at a time, made when it is needed. Thread-safe, but for one process only: a child makes its own writer.

    The lock can be taken twice, and a segment in use is out of reach: Celery's signal handlers append as well, while
    the thread that they interrupt is anywhere in here. They get a file of their own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._segment: GrowingSegment | None = None
        self._uncounted = 0
        self._used = 0
        self._limit = conf.SPOOL_MAX_BYTES
        self._segment_bytes = SEGMENT_BYTES
        self._look_at = 0.0

    def keep(self, payload: bytes, *, ending: bool) -> bool:
        """False where there is no room: bad endings may fill the folder, other events 3/4 of it. Raises OSError."""
        size = PAYLOAD_AT + len(payload)
        with self._lock:
            if time.monotonic() >= self._look_at:
                self._look()
            if self._used + size > (self._limit if ending else SHARE_OF_EVENTS * self._limit):
                return False
            self._write(payload)
            self._used += size
        return True

    def has_room(self) -> bool:
        """For events that are no bad endings, as far as this process has looked."""
        return self._used < SHARE_OF_EVENTS * self._limit

    def count_dropped(self) -> None:
        """In the file, or in the next one where there is none now."""
        with self._lock:
            self._uncounted += 1
            if self._segment is not None:
                self._count_in(self._segment)

    def close(self) -> None:
        """Leaves the file to the reader; what comes next makes another."""
        with self._lock:
            segment, self._segment = self._segment, None
            if segment is not None:
                segment.close()

    def _look(self) -> None:
        started = time.monotonic()
        self._limit = conf.SPOOL_MAX_BYTES
        self._segment_bytes = min(SEGMENT_BYTES, self._limit // LEAST_SEGMENTS)
        self._used = _used(self.folder, self._limit)
        if self._segment is not None and _is_over(self._segment):
            self.close()
        spent = time.monotonic() - started
        self._look_at = started + max(SECONDS_BETWEEN_LOOKS, spent / SHARE_OF_TIME)

    def _write(self, payload: bytes) -> None:
        position = _clock.next()
        segment, self._segment = self._segment, None
        try:
            if segment is not None and segment.size >= self._segment_bytes:
                segment.close()
                segment = None
            if segment is None:
                make_private(self.folder)
                segment = GrowingSegment(self.folder, position)
                self._count_in(segment)
            segment.append(payload, position)
        except OSError:
            self._put_back(segment)
            raise
        except BaseException:  # a soft time limit: nobody knows how far it came
            if segment is not None:
                segment.close()
            raise
        self._put_back(segment)

    def _put_back(self, segment: GrowingSegment | None) -> None:
        if self._segment is not None:  # a signal handler's
            self.close()
        self._segment = segment

    def _count_in(self, segment: GrowingSegment) -> None:
        if self._uncounted:
            segment.count_dropped(self._uncounted)
            self._uncounted = 0


class _Clock:
    """The wall clock in ms << 20 | a sequence, growing all through the process. All that files can know of the order of
    events is the clock of their host."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        now = (time.time_ns() // 1_000_000) << 20
        self.last = position = now if now > self.last else self.last + 1
        return position


_clock = _Clock()


def _used(folder: Path, limit: int) -> int:
    """What waits in the folder, in bytes. What has been applied of files still in use is no reason to drop anything,
    but only counted out where it matters: it takes opening each file."""
    try:
        _files, used = usage(folder)
        return used if used <= SHARE_THAT_MATTERS * limit else unread(folder)
    except FileNotFoundError:
        return 0


def _is_over(segment: GrowingSegment) -> bool:
    """Nobody would read on in a deleted file; one that has been applied to its end takes up room."""
    return segment.is_deleted() or (segment.size >= WORTH_LEAVING_BYTES and segment.is_consumed())
