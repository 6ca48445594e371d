"""The app of the tests. A SIGUSR2 to its worker: while a thread of ours imports something, its pool gets another child
in the place of the one it has."""

import os
import signal
import sys
import threading
import time
from typing import Any

from celery.signals import worker_ready

from django_taskops.journal import forks
from tests.celery_app import app

__all__ = ["app"]

SOUGHT = "librabbitmq"  # by kombu, for each connection to a RabbitMQ; it is not installed


class Search:
    """A finder of modules that finds none."""

    def __init__(self) -> None:
        self._asked = False
        self._pool: Any = None

    def listen(self, sender: Any, **_signal: object) -> None:
        self._pool = sender.pool._pool
        signal.signal(signal.SIGUSR1, self._replace)
        signal.signal(signal.SIGUSR2, self._ask)

    def _ask(self, *_signal: object) -> None:
        self._asked = True

    def find_spec(self, name: str, *_place: Any) -> None:
        if name == SOUGHT and self._asked and threading.current_thread() is not threading.main_thread():
            self._asked = False
            self._replace_child()

    def _replace_child(self) -> None:
        """By the main thread. Returns when that has forked, or waits until it may."""
        before = self._children()
        os.kill(os.getpid(), signal.SIGUSR1)
        while self._children() in ([], before) and not forks._gate._forks:
            time.sleep(0.01)

    def _replace(self, *_signal: object) -> None:
        (child,) = self._children()
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        self._pool.maintain_pool()

    def _children(self) -> list[int]:
        return [child.pid for child in self._pool._pool if child.pid]


_search: Any = Search()
sys.meta_path.insert(0, _search)
worker_ready.connect(_search.listen, weak=False)
