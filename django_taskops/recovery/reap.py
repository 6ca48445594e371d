"""The reaper by hand: for a command, for cron, and for installations whose workers are all gone."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from .. import journal
from ..capture.pulse import Pulse, seconds_between_beats
from ..conf import conf
from ..events import EventKind
from ..models import WorkerBeat
from ..projection.service import serve
from .housekeeper import LEASE, lease_seconds
from .lease import Lease
from .reaper import Reaper
from .reaper.judgement import Judgement, execute
from .workers import REAPER

ROUNDS = 5  # the end of a run is missed after three beats without it, a message after two looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaped:
    """How many runs were ended, by reason ("redelivery" for those that the broker delivers again). `judged` is False
    where nobody could be judged, and `why` says why; `busy` where a worker does it already."""

    judged: bool
    busy: bool = False
    why: str = ""
    runs: Mapping[str, int] = field(default_factory=dict)


def reap(*, timeout: float | None = None, dry_run: bool = False) -> Reaped:
    """Watches the workers for `WORKER_TIMEOUT` seconds, then ends what nobody else will end. Drains the journal
    meanwhile where nobody does. Gives up after `timeout` seconds, by default three times that and a minute. `dry_run`
    ends nothing and counts what would be ended.

    Does nothing where a worker's housekeeper does it already, which takes up to a minute to find out. Not inside a
    transaction.
    """
    lease = Lease(LEASE, lease_seconds())
    seconds = 3 * conf.WORKER_TIMEOUT + 60 if timeout is None else timeout
    if not _take(lease):
        return Reaped(judged=False, busy=True, why="a worker does this already: there is nothing to do by hand")
    try:
        with _beating() as boot_id:
            reaper = Reaper(boot_id, execute=list if dry_run else execute)
            return _reap(reaper, lease, time.monotonic() + seconds)
    finally:
        lease.release()


def _take(lease: Lease) -> bool:
    """Waits for as long as one who was killed may still seem to hold it."""
    deadline = time.monotonic() + 1.5 * lease.seconds
    while not lease.hold():
        if time.monotonic() > deadline:
            return False
        time.sleep(lease.seconds / 20)
    return True


def _reap(reaper: Reaper, lease: Lease, deadline: float) -> Reaped:
    done: dict[int, str] = {}
    while reaper.rounds < ROUNDS:
        if not lease.hold():
            return Reaped(judged=False, busy=True, why="a worker has taken this over", runs=Counter(done.values()))
        if time.monotonic() > deadline:
            why = "no beats came through: is the journal drained, and the database there?"
            return Reaped(judged=reaper.rounds > 0, why="" if reaper.rounds else why, runs=Counter(done.values()))
        done |= {each.run.pk: _reason(each) for each in reaper()}
        time.sleep(seconds_between_beats() / 4)
    return Reaped(judged=True, runs=Counter(done.values()))


def _reason(judgement: Judgement) -> str:
    return "redelivery" if judgement.kind is EventKind.ABANDONED else str(judgement.reason)


@contextmanager
def _beating() -> Iterator[str]:
    """This process beats as a worker does, so that it sees that beats come through; and drains, where nobody else does:
    one holds, the others stand by."""
    stopping = threading.Event()
    drain = threading.Thread(target=_drain, args=(stopping.is_set,), name="taskops-reap-drain", daemon=True)
    pulse = Pulse(lambda: {"worker": REAPER, "pool": REAPER}, boot_id=str(uuid4()))
    drain.start()
    pulse.start()
    try:
        yield pulse.boot_id
    finally:
        pulse.stop(last_beat=False)
        journal.flush()
        stopping.set()
        drain.join()
        WorkerBeat.objects.filter(boot_id=pulse.boot_id).delete()


def _drain(until: Callable[[], bool]) -> None:
    if sources := journal.sources():
        serve(sources, until)
