"""The journal that keeps nothing on its own: an event is applied at once, or when the caller's transaction commits."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from ..events import Event
from .base import Entry
from .postponed import Postponed

SECONDS_AT_EXIT = 2.0

logger = logging.getLogger("django_taskops")


class Writer(Protocol):
    """What the direct journal is handed when the app starts, so that it need not know the ORM."""

    def apply_impatiently(self, events: Sequence[Event]) -> None: ...
    def apply_afresh(self, events: Sequence[Event]) -> None: ...
    def on_commit(self, function: Callable[[], None]) -> None: ...
    def in_transaction(self) -> bool: ...
    def release(self) -> None: ...
    def claim(self, key: str, holder: str) -> str: ...


class DirectJournal:
    """Inside an open transaction an event waits for the commit, and is gone after a rollback: `deferring()` says so,
    and what the worker sees then carries the whole call. In an event loop a thread writes. Where the database is
    busy or away, a thread of this process tries again for a minute, while the task goes on.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.postponed = Postponed(self._apply_in_thread)

    def append(self, event: Event) -> None:
        event = replace(event, position=time.time_ns() // 1000)
        if _in_event_loop():
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="taskops-direct") as thread:
                thread.submit(self._apply_in_thread, event).result()
        elif self._writer.in_transaction():
            self._writer.on_commit(lambda: self._apply(event))
        else:
            self._apply(event)

    def deferring(self) -> bool:
        return not _in_event_loop() and self._writer.in_transaction()

    def flush(self, **_signal: object) -> None:
        """Gives what is postponed two more seconds, in a process that ends."""
        self.postponed.flush(SECONDS_AT_EXIT)

    def read(self, limit: int) -> Sequence[Entry]:  # noqa: ARG002 nothing is ever read from here
        return ()

    def acknowledge(self, keys: Iterable[str]) -> None:
        pass

    def claim(self, key: str, holder: str) -> str:
        return self._writer.claim(key, holder)

    def _apply(self, event: Event) -> None:
        try:
            self._writer.apply_impatiently([event])
        except Exception as error:  # noqa: BLE001 whatever the database raises
            logger.warning("django-taskops: %s of %s is postponed: %r", event.kind, event.task_id, error)
            self.postponed.put(event)

    def _apply_in_thread(self, event: Event) -> None:
        try:
            self._writer.apply_afresh([event])
        finally:
            self._writer.release()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
