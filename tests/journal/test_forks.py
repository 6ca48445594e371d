"""What our threads do, and forks: one waits for the other."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from django_taskops.journal import forks
from tests.workers import eventually

FOR_EVER = 3600.0


class Thread:
    """Goes to work, and stays there until `end()`."""

    def __init__(self, at_work: Callable[[Callable[[], object]], object]) -> None:
        self._begun, self._over = threading.Event(), threading.Event()
        self.was_ended = False
        self.thread = threading.Thread(target=at_work, args=(self._stay,))

    def _stay(self) -> None:
        self._begun.set()
        self.was_ended = self._over.wait(30)

    def begin(self) -> None:
        self.thread.start()
        assert self._begun.wait(30)

    def end(self) -> None:
        self._over.set()
        self.thread.join()
        assert self.was_ended


@contextmanager
def working(at_work: Callable[[Callable[[], object]], object]) -> Iterator[None]:
    thread = Thread(at_work)
    thread.begin()
    try:
        yield
    finally:
        thread.end()


def kept_away(stay: Callable[[], object]) -> None:
    with forks.kept_away():
        stay()


def let_through(stay: Callable[[], object]) -> None:
    with forks.kept_away(), forks.let_through():
        stay()


def fork(child: Callable[[], bool] = lambda: True) -> bool:
    """What `child` says in a forked process."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if child() else 1)
    return os.waitpid(pid, 0)[1] == 0


def test_a_child_is_not_born_with_a_lock_that_one_of_our_threads_holds() -> None:
    lock, held = threading.Lock(), threading.Event()

    def work() -> None:
        with forks.kept_away(), lock:
            held.set()
            eventually(lambda: forks._gate._forks == 1, message="a fork that waits")

    thread = threading.Thread(target=work)
    thread.start()
    assert held.wait(30)

    assert fork(lambda: lock.acquire(blocking=False))
    thread.join()


def test_a_fork_waits_a_little_for_work_that_hangs_and_then_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "FORK_WAITS_SECONDS", 0.01)
    with working(kept_away):
        assert fork()
        monkeypatch.setattr(forks, "FORK_WAITS_SECONDS", FOR_EVER)
        assert fork()


def test_no_fork_waits_for_a_thread_that_only_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "FORK_WAITS_SECONDS", FOR_EVER)
    with working(let_through):
        assert fork()


def test_a_thread_at_work_may_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "FORK_WAITS_SECONDS", FOR_EVER)
    with forks.kept_away():
        assert fork()


def test_a_child_of_work_that_hangs_has_a_gate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def work_and_fork() -> bool:
        forks.FORK_WAITS_SECONDS = FOR_EVER
        with forks.kept_away(), forks.let_through():
            return fork()

    monkeypatch.setattr(forks, "FORK_WAITS_SECONDS", 0.01)
    with working(kept_away):
        assert fork(work_and_fork)
