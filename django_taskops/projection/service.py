"""The drain as a service: for the command, for a worker's child process, and for a moment where somebody asks."""

import math
import threading
import time
from collections.abc import Callable, Sequence

from ..journal.base import Source
from . import quarantine
from .connection import own_connection
from .drain import Drain, Drained
from .reporter import SPOOL, Reporter

REFUSED = 3  # the exit code of a drain of another database's journal


def serve(sources: Sequence[Source], until: Callable[[], bool], idle_seconds: float = math.inf) -> None:
    """Drains until `until()`, or until for `idle_seconds` nothing was its turn, or all that was its turn was a spool
    with nothing in it."""
    last_busy = time.monotonic()

    def told(done: Sequence[Drained]) -> None:
        nonlocal last_busy
        if any(each.source != SPOOL or each.applied or each.quarantined for each in done):
            last_busy = time.monotonic()
        report(done)

    report = Reporter(sources)
    with own_connection():
        Drain(sources).run(lambda: until() or time.monotonic() - last_busy > idle_seconds, told)


def drain_once(sources: Sequence[Source], seconds: float) -> list[Drained]:
    """Drains until nothing waits, for at most `seconds`, in a thread and on a connection of its own. One for each
    source whose turn it was. Raises what the journal or the database raises."""
    found: list[Drained] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with own_connection():
                found.extend(_drain(sources, time.monotonic() + seconds))
        except Exception as error:  # noqa: BLE001 raised again below, in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=work, name="taskops-drain-once", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found


def _drain(sources: Sequence[Source], deadline: float) -> list[Drained]:
    drain, report = Drain(sources), Reporter(sources)
    sums: dict[str, Drained] = {}
    try:
        while time.monotonic() < deadline:
            done = drain.round(wait=0)
            for each in done:
                sums.setdefault(each.source, Drained(each.source)).add(each)
            if not any(each.applied or each.quarantined for each in done):
                break
        report(list(sums.values()))
    finally:
        drain.release()
    return list(sums.values())


retry_quarantined = quarantine.retry
