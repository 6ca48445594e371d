"""Applies a batch of events in one transaction with a constant number of statements.

Correct with any number of concurrent writers: missing runs are inserted ignoring conflicts, then all runs of the batch
are locked in key order, and everything else follows from the rows that were read under that lock. Tables are always
taken in the order runs, attempts, letters, outbox, envelopes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.models import Q

from ..conf import conf
from ..events import Event
from ..models import OutboxEntry, OutboxKind, OutboxStatus, RunEnvelope, TaskAttempt, TaskRun
from ..states import SETTLED
from . import letters, rows
from .merge import Merged, merge

LOCK_WAIT_MILLISECONDS = 200


def apply(events: Sequence[Event], *, impatient: bool = False) -> None:
    """Merges `events` into the tables. Idempotent. Raises what the database raises; then nothing was written.
    `impatient` waits for a lock no longer than 0.2 s.

    Opens a transaction of its own, or a savepoint inside an open one, so that an error never poisons the caller's.
    """
    by_task: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_task[event.task_id].append(event)
    if not by_task:
        return
    with _lock_wait(impatient=impatient), transaction.atomic(using=conf.DATABASE):
        if impatient:
            _limit_lock_wait()
        runs = _locked_runs(by_task)
        stored = _attempts(runs, events)
        lettered = letters.of_runs(runs.values())
        merged = {
            run.pk: merge(
                rows.run_of(run),
                {row.delivery: rows.attempt_of(row) for row in stored[run.pk]},
                [letters.as_merged(letter) for letter in lettered[run.pk].values()],
                by_task[task_id],
            )
            for task_id, run in runs.items()
        }
        _write_runs(runs.values(), merged)
        _write_attempts(merged)
        described = {pk for pk, result in merged.items() if result.run.newly_described}
        letters.write(runs.values(), merged, lettered, described)
        _write_envelopes(merged, described)


def apply_afresh(events: Sequence[Event], *, impatient: bool = False) -> None:
    """`apply`, with one more try on a new connection where the old one has died. Outside transactions only."""
    connection = connections[conf.DATABASE]
    before = connection.connection
    try:
        apply(events, impatient=impatient)
    except (OperationalError, InterfaceError):
        replaced = connection.connection is not before  # `atomic` itself reconnects when its rollback fails
        if connection.in_atomic_block or before is None or (connection.is_usable() and not replaced):
            raise
        connection.close()
        apply(events, impatient=impatient)


def apply_impatiently(events: Sequence[Event]) -> None:
    """`apply_afresh` where a task stands behind it."""
    apply_afresh(events, impatient=True)


def on_commit(function: Callable[[], None]) -> None:
    """Calls `function` once the open transaction has committed. Raises where there is no autocommit to return to."""
    transaction.on_commit(function, using=conf.DATABASE)


def in_transaction() -> bool:
    """True inside an open transaction of the tables' database, one without autocommit included. Never connects."""
    connection = connections[conf.DATABASE]
    autocommit = connection.settings_dict["AUTOCOMMIT"] if connection.connection is None else connection.autocommit
    return connection.in_atomic_block or not autocommit


def can_wait_for_commit(*, publish: bool) -> bool:
    """True for a publish inside `atomic()`, and for anything inside the transaction that Django's TestCase rolls
    back: nothing may be written past that."""
    blocks = connections[conf.DATABASE].atomic_blocks
    return any(publish or getattr(block, "_from_testcase", False) for block in blocks)


def release() -> None:
    """Closes this thread's connection."""
    connections[conf.DATABASE].close()


def claim(key: str, holder: str) -> str:
    """The holder of `key`, written once and never changed."""
    entry = OutboxEntry(kind=OutboxKind.CLAIM, key=f"claim:{key}", payload={"holder": holder}, status=OutboxStatus.DONE)
    OutboxEntry.objects.bulk_create([entry], ignore_conflicts=True)
    held: str = OutboxEntry.objects.get(key=f"claim:{key}").payload["holder"]
    return held


@contextmanager
def _lock_wait(*, impatient: bool) -> Iterator[None]:
    """SQLite waits for its one writer at the begin of a transaction, as long as the connection says."""
    connection = connections[conf.DATABASE]
    if not impatient or connection.vendor != "sqlite" or connection.in_atomic_block:
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        before = cursor.fetchone()[0]
        cursor.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_MILLISECONDS}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {before}")


def _limit_lock_wait() -> None:
    """For PostgreSQL, until the end of the transaction."""
    connection = connections[conf.DATABASE]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT_MILLISECONDS}ms'")


def _locked_runs(by_task: Mapping[str, Sequence[Event]]) -> dict[str, TaskRun]:
    TaskRun.objects.bulk_create([TaskRun(task_id=task_id) for task_id in sorted(by_task)], ignore_conflicts=True)
    locked = TaskRun.objects.select_for_update().filter(task_id__in=by_task).order_by("pk")
    return {run.task_id: run for run in locked}


def _attempts(runs: Mapping[str, TaskRun], events: Iterable[Event]) -> dict[int, list[TaskAttempt]]:
    """The stored attempts that `events` mention, and those whose end settles their epoch."""
    mentioned = {event.delivery for event in events if event.delivery}
    found: dict[int, list[TaskAttempt]] = defaultdict(list)
    wanted = Q(delivery__in=mentioned) | Q(state__in=SETTLED)
    for attempt in TaskAttempt.objects.filter(wanted, run__in=[run.pk for run in runs.values()]).order_by():
        found[attempt.run_id].append(attempt)
    return found


def _write_runs(runs: Iterable[TaskRun], merged: Mapping[int, Merged]) -> None:
    TaskRun.objects.bulk_create(
        [rows.fill_run(run, merged[run.pk].run) for run in runs],
        update_conflicts=True,
        unique_fields=["task_id"],
        update_fields=rows.RUN_FIELDS,
    )


def _write_attempts(merged: Mapping[int, Merged]) -> None:
    obsolete = [(pk, delivery) for pk, result in merged.items() for delivery in result.obsolete]
    if obsolete:
        pks, deliveries = zip(*obsolete, strict=True)
        TaskAttempt.objects.filter(run__in=pks, delivery__in=deliveries).delete()
    TaskAttempt.objects.bulk_create(
        [rows.new_attempt(pk, delivery) for pk, result in merged.items() for delivery in result.attempts],
        update_conflicts=True,
        unique_fields=["run", "delivery"],
        update_fields=rows.ATTEMPT_FIELDS,
    )


def _write_envelopes(merged: Mapping[int, Merged], described: Iterable[int]) -> None:
    """Keeps the newest envelope of each run that has not ended, and drops those of the others."""
    ended = [pk for pk, result in merged.items() if not result.run.holds_envelope]
    if ended:
        RunEnvelope.objects.filter(run__in=ended).delete()
    newest = [
        RunEnvelope(run_id=pk, envelope=call.envelope, error=call.envelope_error)
        for pk, call in ((pk, merged[pk].run.call) for pk in described if merged[pk].run.holds_envelope)
    ]
    RunEnvelope.objects.bulk_create(
        newest, update_conflicts=True, unique_fields=["run"], update_fields=["envelope", "error"]
    )
