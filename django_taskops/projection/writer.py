"""Applies a batch of events in one transaction with a constant number of statements.

Correct with any number of concurrent writers: the runs that are there are locked in key order, the others are inserted
in the order of their ids, and a writer that finds itself overtaken there begins again. Everything else follows from
what was read under these locks. Tables are always taken in the order runs, attempts, letters, outbox, envelopes,
chords.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import nullcontext
from dataclasses import replace
from uuid import uuid4

from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.models import Q

from ..conf import conf
from ..events import Beat, Chord, Event, EventKind, Record
from ..models import OutboxEntry, OutboxKind, OutboxStatus, RunEnvelope, TaskAttempt, TaskRun
from ..states import SETTLED
from . import beats, bulk, chords, letters, limits, rows
from .merge import Merged, Run, falls_back, merge

_GLANCE = replace(
    limits.IMPATIENT, postgresql=dict.fromkeys(("lock_timeout", "statement_timeout"), limits.LOCK_WAIT_MILLISECONDS)
)
MAX_STARTS = 10
DATABASE_ID = "database"


class _Overtaken(Exception):
    """Another writer has inserted one of our runs since we looked."""


def apply(records: Sequence[Record], *, impatient: bool = False, background: bool = False) -> None:
    """Merges `records` into the tables. Idempotent. Raises what the database raises; then nothing was written.
    `impatient` waits for a lock no longer than 0.2 s, a second on MySQL; `background` has limits of seconds for
    everything.

    Opens a transaction of its own, or a savepoint inside an open one, so that an error never poisons the caller's.
    """
    if not records:
        return
    events = [record for record in records if isinstance(record, Event)]
    told = [record for record in records if isinstance(record, Beat)]
    joints = [record for record in records if isinstance(record, Chord)]
    within = limits.IMPATIENT if impatient else limits.BACKGROUND if background else limits.NONE
    inside = connections[conf.DATABASE].in_atomic_block
    for _start in range(MAX_STARTS):
        try:
            with limits.limited_transaction(within):
                lock_for_writing()
                if events:
                    _apply(chords.without_stale(events))
                chords.write(joints)
                beats.write(told)  # last: whoever sees a beat sees what came before it
        except _Overtaken:
            continue
        except OperationalError as error:
            if inside or not limits.is_deadlock(error):  # which may have ended the caller's transaction as well
                raise
            continue
        return
    raise OperationalError(f"expected to write {len(events)} events, was overtaken {MAX_STARTS} times")


def _apply(events: Sequence[Event]) -> None:
    by_task: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_task[event.task_id].append(event)
    known = _locked_runs(by_task)
    lettered = letters.of_runs(known)
    stored = _attempts(known, by_task, lettered)
    merged = {
        pk: merge(
            run,
            {row.delivery: rows.attempt_of(row) for row in stored[pk]},
            [letters.as_merged(letter) for letter in lettered[pk].values()],
            by_task[run.task_id],
        )
        for pk, run in known.items()
    }
    bulk.update(TaskRun, [{"id": pk, **rows.columns_of(result.run)} for pk, result in merged.items()])
    merged |= _insert(by_task.keys() - {run.task_id for run in known.values()}, by_task)
    _write_attempts(merged)
    described = {pk for pk, result in merged.items() if result.run.newly_described}
    letters.write(merged, lettered, described)
    _write_envelopes(merged, known, described)
    chords.touch(merged.values())


def _insert(task_ids: Iterable[str], by_task: Mapping[str, Sequence[Event]]) -> dict[int, Merged]:
    """The runs that were not there, by their new primary keys."""
    merged = {task_id: merge(Run(task_id=task_id), {}, (), by_task[task_id]) for task_id in sorted(task_ids)}
    pks = bulk.insert(TaskRun, [rows.columns_of(result.run) for result in merged.values()], "task_id")
    if len(pks) < len(merged):
        raise _Overtaken
    return {pks[task_id]: result for task_id, result in merged.items()}


def apply_afresh(events: Sequence[Record], *, impatient: bool = False) -> None:
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


def apply_impatiently(events: Sequence[Record]) -> None:
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
    """The holder of `key`, written once and never changed. Waits for a lock for 0.2 s at most."""
    with limits.limited_transaction(_GLANCE):
        claim_all({key: holder})
        held: str = OutboxEntry.objects.get(key=f"claim:{key}").payload["holder"]
    return held


def claim_all(claims: Mapping[str, str]) -> None:
    """Lets the holders have those of the keys that nobody holds."""
    entries = [
        OutboxEntry(kind=OutboxKind.CLAIM, key=f"claim:{key}", payload={"holder": holder}, status=OutboxStatus.DONE)
        for key, holder in sorted(claims.items())  # in one order: two that claim the same never wait for each other
    ]
    OutboxEntry.objects.bulk_create(entries, ignore_conflicts=True)


def holder_of(key: str) -> str:
    """The holder of `key`, "" for nobody. On PostgreSQL it waits for 0.2 s at most."""
    limited = connections[conf.DATABASE].vendor == "postgresql"  # a transaction of SQLite's may take the write lock
    with transaction.atomic(using=conf.DATABASE) if limited else nullcontext():
        limits.limit_transaction(_GLANCE)
        found = OutboxEntry.objects.filter(key=f"claim:{key}").values_list("payload", flat=True).first()
    return str(found["holder"]) if found else ""


def lock_for_writing() -> None:
    """SQLite has one lock, which has to be taken before anything is read that is then written. Inside a transaction."""
    connection = connections[conf.DATABASE]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("UPDATE taskops_taskrun SET id = id WHERE 0")


def database_id(*, create: bool) -> str:
    """The id that this database keeps of itself, with its name and host: a copy elsewhere, such as staging restored
    from a dump, is another database. "" where it has none yet and `create` is False."""
    given = connections[conf.DATABASE].settings_dict
    name = " ".join(str(given[key]) for key in ("NAME", "HOST", "PORT") if given[key])
    if create:
        return f"{claim(DATABASE_ID, uuid4().hex)} {name}"
    found = OutboxEntry.objects.filter(key=f"claim:{DATABASE_ID}").values_list("payload", flat=True).first()
    return f"{found['holder']} {name}" if found else ""


def identity() -> str:
    """Names the database by its settings, without asking it."""
    given = connections[conf.DATABASE].settings_dict
    return " ".join(str(given[name]) for name in ("ENGINE", "HOST", "PORT", "NAME"))


def _locked_runs(by_task: Mapping[str, Sequence[Event]]) -> dict[int, Run]:
    found = TaskRun.objects.select_for_update().filter(task_id__in=by_task).order_by("pk")
    return {values[0]: rows.run_from(values) for values in found.values_list(*rows.RUN_COLUMNS)}


def _attempts(
    runs: Mapping[int, Run], by_task: Mapping[str, Sequence[Event]], lettered: Mapping[int, Sized]
) -> Mapping[int, Sequence[TaskAttempt]]:
    """The stored attempts that the events mention, those whose end settles their epoch, and those never sent; all of a
    run that has letters, or falls back to one of them."""
    found: dict[int, list[TaskAttempt]] = defaultdict(list)
    if runs:
        mentioned = {event.delivery for events in by_task.values() for event in events if event.delivery}
        wanted = Q(delivery__in=mentioned) | Q(state__in=SETTLED) | Q(verdict=EventKind.UPSTREAM_FAILED)
        if whole := [pk for pk, run in runs.items() if lettered[pk] or falls_back(run, by_task[run.task_id])]:
            wanted |= Q(run__in=whole)
        for attempt in TaskAttempt.objects.filter(wanted, run__in=runs).order_by():
            found[attempt.run_id].append(attempt)
    return found


def _write_attempts(merged: Mapping[int, Merged]) -> None:
    obsolete = [(pk, delivery) for pk, result in merged.items() for delivery in result.obsolete]
    if obsolete:
        pks, deliveries = zip(*obsolete, strict=True)
        TaskAttempt.objects.filter(run__in=pks, delivery__in=deliveries).delete()
    attempts = [rows.new_attempt(pk, delivery) for pk, result in merged.items() for delivery in result.attempts]
    bulk.upsert(TaskAttempt, attempts, unique=["run", "delivery"], update=rows.ATTEMPT_FIELDS)


def _write_envelopes(merged: Mapping[int, Merged], known: Iterable[int], described: Iterable[int]) -> None:
    """Keeps the newest envelope of each run that has not ended, and drops those of the others."""
    ended = [pk for pk in known if not merged[pk].run.holds_envelope]
    if ended:
        RunEnvelope.objects.filter(run__in=ended).delete()
    newest = ((pk, merged[pk].run.call) for pk in described if merged[pk].run.holds_envelope)
    bulk.replace(
        RunEnvelope, [{"run_id": pk, "envelope": call.envelope, "error": call.envelope_error} for pk, call in newest]
    )
