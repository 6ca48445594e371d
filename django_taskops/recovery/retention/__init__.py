"""Deletes what is older than the project wants to keep it, a little at a time."""

import math
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from django.db import OperationalError, connections

from ...conf import conf
from ...projection.limits import is_deadlock
from . import sampling
from .prunable import WINDOW, Rows, all_rows, transaction

MAX_STARTS = 10  # of a batch that meets deadlocks
FIRST_ROWS = 500  # in a transaction; then as many as fit into AIM_SECONDS
FEWEST_ROWS = 10
AIM_SECONDS = 0.05

SECONDS_PER_CALL = 1.0
SECONDS_BETWEEN_PASSES = 600.0
LARGEST_SHARE = 0.01  # of the time, where rows that are kept make a pass long


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """How many rows were deleted, or would be. Attempts and envelopes go with their run and are not counted.

    `longest_seconds` is how long the longest transaction held its locks.
    """

    success: int = 0
    sampled: int = 0
    failure: int = 0
    dead_letter: int = 0
    outbox: int = 0
    worker: int = 0
    chord: int = 0
    longest_seconds: float = field(default=0.0, compare=False)


def prune(*, seconds: float = math.inf, dry_run: bool = False) -> Pruned:
    """Deletes what is due by now, in many short transactions; stops after about `seconds`, and the next call goes on.
    `dry_run` counts instead, all of it, and writes nothing.

    Any number of processes may do so at once. Raises ImproperlyConfigured where RETENTION or KEEP_SUCCESS is not what
    it has to be, and what the database raises; what was deleted before stays deleted.
    """
    if dry_run:
        return Pruned(**{rows.kind: rows.count() for rows in all_rows()})
    until = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    longest = 0.0
    for batch in _batches():
        counts[batch.kind] += batch.deleted
        longest = max(longest, batch.seconds)
        if time.monotonic() >= until:
            break
    return Pruned(**counts, longest_seconds=longest)


class Chore:
    """For the housekeeper: each call works for a second at most, and goes on where the last one stopped. After a pass
    it rests for ten minutes, or longer, so that it takes no more than a hundredth of the time."""

    def __init__(self) -> None:
        self._pass: Iterator[_Batch] | None = None
        self._worked = 0.0
        self._not_before = -math.inf
        self._sampling_until: datetime | None = None
        self._sampled_until: datetime | None = None

    def __repr__(self) -> str:
        return "retention"

    def __call__(self) -> None:
        """Raises what `prune` raises; then the next call begins a new pass."""
        began = time.monotonic()
        if self._pass is None and began < self._not_before:
            return
        if self._pass is None:
            self._sampling_until = sampling.ended_before()
        batches, self._pass = self._pass or _batches(self._sampled_until), None
        for batch in batches:
            if time.monotonic() - began >= SECONDS_PER_CALL or (batch.seconds and _is_shared()):
                self._pass = batches
                break
        self._worked += time.monotonic() - began
        if self._pass is None:
            self._not_before = time.monotonic() + max(SECONDS_BETWEEN_PASSES, self._worked / LARGEST_SHARE)
            self._worked = 0.0
            self._sampled_until = self._sampling_until


chore = Chore()


def _is_shared() -> bool:
    """True for a SQLite that the project writes to as well: it bears one background commit a second."""
    return connections[conf.DATABASE].vendor == "sqlite" and conf.DATABASE == "default"


class _Batch(NamedTuple):
    kind: str
    deleted: int
    seconds: float


def _batches(sampled_until: datetime | None = None) -> Iterator[_Batch]:
    """One pass over all tables, from the oldest rows on. Outside a transaction wherever it yields. Of the successes
    that ended before `sampled_until`, an earlier pass has left what is kept."""
    for rows in all_rows(sampled_until):
        size = FIRST_ROWS
        for due in rows.windows():
            if not due:
                yield _Batch(rows.kind, 0, 0.0)
            done = 0
            while chosen := due[done : done + size]:
                began = time.monotonic()
                deleted = _delete_batch(rows, chosen)
                held = time.monotonic() - began
                done += len(chosen)
                size = _next_size(size, len(chosen), held)
                _let_others_write(held)
                yield _Batch(rows.kind, deleted, held)


def _delete_batch(rows: Rows, chosen: Collection[int]) -> int:
    """Begins again where the database has ended the transaction for another's sake: MySQL and MariaDB let two that
    delete neighbouring rows run into each other."""
    start = 1
    while True:
        try:
            with transaction():
                return rows.delete(chosen)
        except OperationalError as error:
            if start == MAX_STARTS or not is_deadlock(error):
                raise
            start += 1


def _next_size(size: int, rows: int, seconds: float) -> int:
    """Grows by half at most, and only after a batch that was as large as it might be."""
    if seconds > AIM_SECONDS:
        return max(FEWEST_ROWS, int(rows * AIM_SECONDS / seconds))
    if rows < size:
        return size
    return min(WINDOW, int(size * min(1.5, AIM_SECONDS / seconds)))


def _let_others_write(held: float) -> None:
    """SQLite has one lock and no queue for it: whoever takes it again at once keeps the others out."""
    if connections[conf.DATABASE].vendor == "sqlite":
        time.sleep(held)
