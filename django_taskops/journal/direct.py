"""The journal that keeps nothing on its own: an event is applied at once, or when the caller's transaction commits."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ..events import Chord, EventKind, Record
from .postponed import Postponed

SECONDS_AT_EXIT = 2.0
SHORTEST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0
SECONDS_BETWEEN_LOGS = 60.0

logger = logging.getLogger("django_taskops")


class Writer(Protocol):
    """What the direct journal is handed when the app starts, so that it need not know the ORM."""

    def apply_impatiently(self, events: Sequence[Record]) -> None: ...
    def apply_afresh(self, events: Sequence[Record]) -> None: ...
    def on_commit(self, function: Callable[[], None]) -> None: ...
    def in_transaction(self) -> bool: ...
    def can_wait_for_commit(self, *, publish: bool) -> bool: ...
    def release(self) -> None: ...
    def claim(self, key: str, holder: str) -> str: ...
    def claim_all(self, claims: Mapping[str, str]) -> None: ...
    def holder_of(self, key: str) -> str: ...


class DirectJournal:
    """A publish inside an open transaction waits for the commit, and is gone after a rollback: `deferring()` says so,
    and what the worker sees then carries the whole call. What a worker does is a fact whatever becomes of the task's
    transaction: inside one, in an event loop, and where the database is busy or away, a thread of this process
    writes, while the task goes on. It tries for a minute.

    Exceptions of `passing` are the task's own, and go through.
    """

    def __init__(self, writer: Writer, passing: tuple[type[Exception], ...] = ()) -> None:
        self._writer = writer
        self._passing = passing
        self._paused_until = 0.0
        self._logged = -SECONDS_BETWEEN_LOGS
        self.postponed = Postponed(self._apply_in_thread)

    def append(self, event: Record) -> None:
        if _in_event_loop():
            self.postponed.put(event)
        elif not self._writer.in_transaction():
            self._apply(event)
        elif self._writer.can_wait_for_commit(publish=event.kind in _PUBLISHED):
            self._writer.on_commit(lambda: self._apply(event))
        else:
            self.postponed.put(event)

    def append_later(self, event: Record) -> None:
        self.postponed.put(event)

    def deferring(self) -> bool:
        return _in_event_loop() or time.monotonic() < self._paused_until or self._writer.in_transaction()

    def prepare(self) -> None:
        """Django connects at the first write."""

    def flush(self, **_signal: object) -> None:
        """Gives what is postponed two more seconds, in a process that ends."""
        self.postponed.flush(SECONDS_AT_EXIT)

    def claim(self, key: str, holder: str) -> str:
        return self._writer.claim(key, holder)

    def claim_beside(self, other: str, key: str, holder: str) -> tuple[str, str]:
        return self._writer.holder_of(other), self._writer.claim(key, holder)

    def claim_all(self, claims: Mapping[str, str]) -> None:
        self._writer.claim_all(claims)

    def holder(self, key: str) -> str:
        return self._writer.holder_of(key)

    def _apply(self, event: Record) -> None:
        """Pauses after a failure, ten times as long as that took: no task waits twice for the same outage."""
        started = time.monotonic()
        if started < self._paused_until:
            self.postponed.put(event)
            return
        try:
            self._writer.apply_impatiently([event])
        except Exception as error:
            self.postponed.put(event)
            spent = time.monotonic() - started
            pause = min(max(SHORTEST_PAUSE_SECONDS, 10 * spent), LONGEST_PAUSE_SECONDS)
            self._paused_until = time.monotonic() + pause
            if isinstance(error, self._passing):
                raise
            self._log(event, error)

    def _log(self, event: Record, error: Exception) -> None:
        if time.monotonic() - self._logged >= SECONDS_BETWEEN_LOGS:
            self._logged = time.monotonic()
            logger.warning("django-taskops: %s of %s is postponed: %r", event.kind, event.subject, error)

    def _apply_in_thread(self, event: Record) -> None:
        try:
            self._writer.apply_afresh([event])
        finally:
            self._writer.release()


_PUBLISHED = (EventKind.PUBLISHED, Chord.kind)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
