"""Keeps forks and this package's threads apart.

A child gets every lock as it is when it is forked. One that a thread holds just then stays locked in the child for
ever, since the thread is not there to release it: that of a module being imported, of one of kombu's cached properties,
of the resolver of host names. The first task that needs it hangs. Celery forks whenever it replaces a process of its
pool, and its prefork workers have no threads but ours. So a fork waits until they are at rest.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from . import descriptors  # noqa: F401 registers its lock first: what is at work here may wait for that

FORK_WAITS_SECONDS = 1.0


@contextmanager
def kept_away() -> Iterator[None]:
    """For what a thread does: no fork begins in the middle of the block. One waits for it, for a second at most, and
    once, however long the block goes on: then it hangs on the network, with no lock that others use."""
    thread = threading.get_ident()
    if thread in _gate.at_work:
        yield
        return
    _gate.go_to_work(thread)
    try:
        yield
    finally:
        _gate.rest(thread)


@contextmanager
def let_through() -> Iterator[None]:
    """Inside `kept_away`, for what only waits."""
    thread = threading.get_ident()
    if thread not in _gate.at_work:
        yield
        return
    _gate.rest(thread)
    try:
        yield
    finally:
        _gate.go_to_work(thread)


class _Gate:
    def __init__(self) -> None:
        self.at_work: dict[int, bool] = {}  # threads; False for one that a fork has waited for in vain
        self._forks = 0  # that wait
        self._changed = threading.Condition()

    def go_to_work(self, thread: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._forks)
            self.at_work[thread] = True

    def rest(self, thread: int) -> None:
        with self._changed:
            self.at_work.pop(thread, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Before a fork; nobody goes to work until it is done."""
        self._changed.acquire()
        others = self._others()
        self._forks += 1
        try:
            self._changed.wait_for(lambda: not any(map(self.at_work.get, others)), FORK_WAITS_SECONDS)
        finally:
            self._forks -= 1
            self.at_work |= dict.fromkeys(filter(self.at_work.get, others), False)

    def _others(self) -> list[int]:
        me = threading.get_ident()
        return [thread for thread, worth_waiting in self.at_work.items() if worth_waiting and thread != me]

    def open(self) -> None:
        self._changed.notify_all()
        self._changed.release()


_gate = _Gate()


def _before_fork() -> None:
    _gate.close()


def _in_parent() -> None:
    _gate.open()


def _in_child() -> None:
    """Nobody is at work here."""
    global _gate  # noqa: PLW0603 a lock does not survive a fork
    _gate = _Gate()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
