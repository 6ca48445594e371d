"""Tells how a body has ended where Celery is not done with it soon after.

Celery stores the result before it says anything. While the result backend is away the child waits there, and if it is
killed, nobody would know that the task had ended. A thread of the child looks 50 to 100 ms after each body's end.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..journal import forks
from . import lifecycle
from .shield import shielded
from .span import Span

PATIENCE_SECONDS = 0.05
MAX_WATCHED = 1000


class _Ended(NamedTuple):
    task: Any
    request: Any
    span: Span
    due: float


class _Watcher:
    """Of one process: a fork leaves its thread behind. Where none can be started, the next body's end tries again, and
    the latest 1,000 wait for it."""

    def __init__(self) -> None:
        self.ended: deque[_Ended] = deque(maxlen=MAX_WATCHED)
        self.wake = threading.Event()
        self.started = threading.Lock()

    def watch(self, ended: _Ended) -> None:
        self.ended.append(ended)
        if not self.wake.is_set():
            self.wake.set()
        if self.started.acquire(blocking=False):  # given back only where no thread is started
            self._start()

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name="taskops-foretold", daemon=True).start()
        except RuntimeError:
            self.started.release()
            raise

    def _run(self) -> None:
        while True:
            self.wake.wait()
            self.wake.clear()
            while self.ended:
                time.sleep(PATIENCE_SECONDS)  # not for each: a busy process must not wake it for every task
                self._look(time.monotonic())

    def _look(self, now: float) -> None:
        while self.ended and self.ended[0].due <= now:
            first = self.ended.popleft()
            if not first.span.ended:
                with forks.kept_away():
                    _tell(first)


_watcher = _Watcher()


def _renew() -> None:
    global _watcher  # noqa: PLW0603
    _watcher = _Watcher()


os.register_at_fork(after_in_child=_renew)


@shielded
def watch(task: Any, span: Span) -> None:
    """Called when the body has ended, in the thread that ran it."""
    request = task.request
    if not request.is_eager:
        _watcher.watch(_Ended(task, request, span, time.monotonic() + PATIENCE_SECONDS))


@shielded
def _tell(ended: _Ended) -> None:
    with _running(ended):
        lifecycle.foretell(ended.task, ended.span)


@contextmanager
def _running(ended: _Ended) -> Iterator[None]:
    """In this thread too, the task's request is that one."""
    stack = ended.task.request_stack
    stack.push(ended.request)
    try:
        yield
    finally:
        stack.pop()
