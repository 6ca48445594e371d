"""Events that could not be applied at once: a thread of this process tries them again, for a minute, bounded."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ..events import Record
from . import forks

MAX_EVENTS = 1000
KEPT_SECONDS = 60.0
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 5.0

logger = logging.getLogger("django_taskops")


class _Waiting(NamedTuple):
    event: Record
    until: float


class Postponed:
    """`apply` is called with one event at a time, in the thread, and may raise: then it is tried again, later.

    The lock can be taken twice: a signal handler may put as well, while the thread that it interrupts is anywhere in
    here.
    """

    _waiting: deque[_Waiting]
    _lock: threading.RLock
    _thread: threading.Thread | None
    _starting: bool

    def __init__(self, apply: Callable[[Record], None]) -> None:
        self._apply = apply
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def put(self, event: Record) -> None:
        """Never blocks. What waits beyond 1,000 events or a minute is dropped, and the log says so."""
        with self._lock:
            if len(self._waiting) == MAX_EVENTS:
                logger.error("django-taskops: %s events wait for the database, the oldest is dropped", MAX_EVENTS)
                self._waiting.popleft()
            self._waiting.append(_Waiting(event, time.monotonic() + KEPT_SECONDS))
            if not self._starting and (self._thread is None or not self._thread.is_alive()):
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="taskops-postponed", daemon=True)
        self._starting = True
        try:
            thread.start()
        except RuntimeError as error:  # at the very end of a process
            logger.error("django-taskops: no thread to write what waits: %r", error)  # noqa: TRY400
        else:
            self._thread = thread
        finally:
            self._starting = False

    def flush(self, seconds: float) -> bool:
        """Waits up to `seconds` for what is postponed; True where nothing is left. For a process that ends."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return not self._waiting

    def _forget(self) -> None:
        """What waits in a parent is the parent's to apply; its thread and its lock do not survive the fork."""
        self._waiting = deque()
        self._lock = threading.RLock()
        self._thread = None
        self._starting = False

    def _work(self) -> None:
        wait = FIRST_WAIT_SECONDS
        while (first := self._first()) is not None:
            try:
                with forks.kept_away():
                    self._apply(first.event)
            except Exception as error:  # noqa: BLE001 whatever the database raises
                if time.monotonic() < first.until:
                    time.sleep(wait)
                    wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                    continue
                event = first.event
                logger.error("django-taskops: %s of %s is dropped: %r", event.kind, event.subject, error)  # noqa: TRY400
            wait = FIRST_WAIT_SECONDS
            self._done(first)

    def _first(self) -> _Waiting | None:
        with self._lock:
            if not self._waiting:
                self._thread = None
                return None
            return self._waiting[0]

    def _done(self, waiting: _Waiting) -> None:
        with self._lock:
            if self._waiting and self._waiting[0] is waiting:
                self._waiting.popleft()
