"""The journal of a host: events wait in local files until a worker on this host applies them.

The journal for every broker but Redis, and what the Redis journal falls back to.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from ...events import Beat, Record
from ..base import Journal
from ..bounds import is_bad_ending
from ..codec import encode
from . import collector
from .folder import check_private, folder_of
from .writer import SpoolWriter

PAUSE_SECONDS = 2.0
ASK_AGAIN_SECONDS = 5.0
SECONDS_BETWEEN_LOGS = 60.0

logger = logging.getLogger("django_taskops")


class SpoolJournal:
    """What is appended outlives this process, though not the host's power: nothing is synced.

    Where nobody collects on this host, events go to `direct`. Where there is no room or no usable folder, bad endings
    go to `direct`, and other events are dropped and counted: `dropped`, by kind, counts those of this process.

    `identity` names the database that the events are for; it is asked at each append.
    """

    dropped: Counter[str]
    _lock: threading.RLock
    _writer: SpoolWriter | None

    def __init__(self, direct: Journal, identity: Callable[[], str]) -> None:
        self._direct = direct
        self._identity = identity
        self._expected = False
        self._logged = -SECONDS_BETWEEN_LOGS
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def expect_collector(self) -> None:
        """From now on this process and its children use the files: their worker is about to collect them."""
        self._expected = True

    def append(self, event: Record) -> None:
        """Raises only what encoding and the direct journal raise."""
        self._append(event, self._direct.append)

    def append_later(self, event: Record) -> None:
        self._append(event, self._direct.append_later)

    def _append(self, event: Record, else_to: Callable[[Record], None]) -> None:
        writer = self._writer_here()
        if not self._is_collected(writer.folder):
            else_to(event)
            return
        ending, payload = is_bad_ending(event), encode(event)
        try:
            kept = self._keep(writer, payload, ending=ending)
        except BaseException:  # the task's soft time limit struck in there: nobody knows how far it came
            self._direct.append_later(event)
            raise
        if kept:
            return
        if ending or isinstance(event, Beat):  # a worker must not look dead for want of room
            else_to(event)
        else:
            self._drop(writer, event)

    def deferring(self) -> bool:
        """True also where an event would be dropped."""
        writer = self._writer_here()
        if not self._is_collected(writer.folder):
            return self._direct.deferring()
        return self._is_paused() or not writer.has_room()

    def prepare(self) -> None:
        """There is nothing to connect to."""

    def flush(self, **_signal: object) -> None:
        """Nothing is under way in here; the file is left to the reader."""
        if self._writer is not None:
            self._writer.close()
        self._direct.flush()

    def claim(self, key: str, holder: str) -> str:
        return self._direct.claim(key, holder)

    def claim_beside(self, other: str, key: str, holder: str) -> tuple[str, str]:
        return self._direct.claim_beside(other, key, holder)

    def claim_all(self, claims: Mapping[str, str]) -> None:
        self._direct.claim_all(claims)

    def holder(self, key: str) -> str:
        return self._direct.holder(key)

    def _writer_here(self) -> SpoolWriter:
        """The settings may name another folder than before, in tests."""
        folder, writer = folder_of(self._identity()), self._writer
        if writer is not None and writer.folder is folder:  # one object for one folder: comparing paths is slow
            return writer
        with self._lock:
            if self._writer is None or self._writer.folder is not folder:
                self._move_to(folder)
            assert self._writer is not None
            return self._writer

    def _move_to(self, folder: Path) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = SpoolWriter(folder)
        self._ask_at = self._paused_until = 0.0

    def _is_collected(self, folder: Path) -> bool:
        if self._expected:
            return True
        now = time.monotonic()
        if now >= self._ask_at:
            self._collected = _is_collected(folder)
            self._ask_at = now + ASK_AGAIN_SECONDS
        return self._collected

    def _is_paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _keep(self, writer: SpoolWriter, payload: bytes, *, ending: bool) -> bool:
        if self._is_paused():
            return False
        try:
            kept = writer.keep(payload, ending=ending)
        except OSError as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            self._log(f"{writer.folder} can't be written to: {error}")
            return False
        if not kept:
            self._log(f"{writer.folder} is full (SPOOL_MAX_BYTES)")
        return kept

    def _drop(self, writer: SpoolWriter, event: Record) -> None:
        with self._lock:
            self.dropped[event.kind] += 1
        writer.count_dropped()

    def _log(self, problem: str) -> None:
        now = time.monotonic()
        if now - self._logged >= SECONDS_BETWEEN_LOGS:
            self._logged = now
            logger.warning("django-taskops: %s; what is no bad ending is dropped", problem)

    def _forget(self) -> None:
        """A child has nothing of its parent's but what it was told: its file, its lock and its count are its own."""
        self.dropped = Counter()
        self._lock = threading.RLock()
        self._writer = None
        self._collected = False
        self._ask_at = 0.0
        self._paused_until = 0.0


def _is_collected(folder: Path) -> bool:
    try:
        check_private(folder)
        return bool(collector.holder(folder))
    except OSError:
        return False
