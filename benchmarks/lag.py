"""How old the oldest event is that waits for the database, asked from outside, without a word of the package itself."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from .brokers import Broker, RedisBroker
from .databases import Database

SAMPLE_SECONDS = 0.2

Probe = Callable[[], float | None]


class Lag:
    """The highest lag seen so far, in seconds; None where there was nothing to see."""

    highest: float | None = None

    def see(self, seconds: float | None) -> None:
        if seconds is not None:
            self.highest = max(seconds, self.highest or 0.0)


@contextmanager
def watching(probe: Probe) -> Iterator[Lag]:
    """Asks five times a second, in a thread, until the block ends."""
    lag, over = Lag(), threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            lag.see(probe())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lag
    finally:
        over.set()
        thread.join()


def probe_of(broker: Broker, database: Database, newest: str) -> Probe:
    """`newest` is the SQL of the newest instant among the rows."""
    if isinstance(broker, RedisBroker):
        return partial(_stream_age, broker)
    return partial(_row_age, database, f"SELECT {database.epoch(newest)} FROM taskops_taskrun")


def _stream_age(broker: RedisBroker) -> float | None:
    """The age of the oldest entry in the streams of the journal, by the clock of the server that wrote its id."""
    client = broker.client
    keys = list(client.scan_iter(match="*taskops*", count=1000, _type="stream"))
    firsts: list[Any] = [entries[0][0] for key in keys if (entries := client.xrange(key, count=1))]
    seconds, microseconds = client.time()
    now = seconds + microseconds / 1_000_000
    return max((now - int(first.split(b"-")[0]) / 1000 for first in firsts), default=0.0 if keys else None)


def _row_age(database: Database, query: str) -> float | None:
    """For a journal that is no stream: the age of the newest fact among the rows, while facts are made all the time."""
    newest = database.number(query)
    return None if newest is None else time.time() - newest
