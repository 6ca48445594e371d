"""What is old goes, what is needed stays, and nobody waits for it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from django.db.models import Model
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from django_taskops.models import (
    AuditEntry,
    Chord,
    ChordResult,
    DeadLetter,
    OutboxEntry,
    OutboxKind,
    OutboxStatus,
    QuarantinedEntry,
    RunEnvelope,
    TaskAttempt,
    TaskRun,
    WorkerBeat,
)
from django_taskops.projection import writer
from django_taskops.recovery import retention
from django_taskops.recovery.retention import Chore, Pruned, prunable, prune
from django_taskops.states import FINISHED, SETTLED, UNFINISHED, LetterStatus, TaskState
from tests.events import Story
from tests.factories import (
    AuditEntryFactory,
    DeadLetterFactory,
    OutboxEntryFactory,
    QuarantinedEntryFactory,
    RunEnvelopeFactory,
    TaskAttemptFactory,
    TaskRunFactory,
    WorkerBeatFactory,
)
from tests.recovery.test_canvas import plan_of

pytestmark = pytest.mark.mariadb

for_real = pytest.mark.django_db(transaction=True)
DECIDED = ("resolved", "discarded", "superseded")


def ago(days: float) -> Any:
    return timezone.now() - timedelta(days=days)


def ended(days: float, state: str = TaskState.SUCCESS, **fields: Any) -> TaskRun:
    return TaskRunFactory(published=ago(days + 1), started=True, state=state, finished_at=ago(days), **fields)


def letter(days: float, **fields: Any) -> DeadLetter:
    """Of a run that ended then, with the decision right after it, where the trait brings one."""
    return DeadLetterFactory(run=ended(days, TaskState.FAILURE, reason="failed"), **fields)


def keep(settings: Settings, **days: int | None) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "RETENTION": {"success": None, "failure": None} | days}


@pytest.mark.parametrize("state", sorted(FINISHED))
def test_each_ending_has_its_days(database: str, settings: Settings, state: str) -> None:
    keep(settings, success=7, failure=90)
    days = 7 if state in SETTLED else 90
    ended(days + 0.01, state)
    young = ended(days - 0.01, state)
    pruned = prune()

    assert list(TaskRun.objects.all()) == [young]
    assert pruned == (Pruned(success=1) if state in SETTLED else Pruned(failure=1))


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_a_run_that_is_not_finished_stays(database: str, state: str) -> None:
    """Also where it has ended before, and was sent again since."""
    TaskRunFactory(published=ago(1000), state=state)
    ended(1000, state)

    assert prune() == Pruned()
    assert TaskRun.objects.count() == 2


def test_without_a_limit_everything_stays(database: str, settings: Settings) -> None:
    keep(settings, dead_letter=None)
    ended(10_000)
    ended(10_000, TaskState.FAILURE)
    letter(10_000, discarded=True)

    assert prune() == Pruned()


def test_days_beyond_the_calendar_are_as_good_as_for_ever(database: str, settings: Settings) -> None:
    keep(settings, success=10**12)
    ended(10_000)

    assert prune() == Pruned()


def test_a_wrong_setting_deletes_nothing(database: str, settings: Settings) -> None:
    keep(settings, success=0)
    ended(10_000)
    with pytest.raises(ImproperlyConfigured, match="RETENTION: expected days above 0"):
        prune()

    assert TaskRun.objects.exists()


def test_attempts_and_envelope_go_with_their_run_and_no_other_does(database: str) -> None:
    old, young = ended(8), ended(6)
    for run in (old, young):
        TaskAttemptFactory.create_batch(2, run=run, retried=True)
        RunEnvelopeFactory(run=run)

    assert prune() == Pruned(success=1)
    assert set(TaskAttempt.objects.values_list("run", flat=True)) == {young.pk}
    assert RunEnvelope.objects.get().run_id == young.pk


@pytest.mark.parametrize("status", sorted(LetterStatus))
def test_letters_that_wait_for_somebody_keep_their_run(database: str, settings: Settings, status: str) -> None:
    keep(settings, failure=90, dead_letter=30)
    traits = {} if status == LetterStatus.OPEN else {status: True}
    letter(100, **traits)
    pruned = prune()

    assert pruned == (Pruned(failure=1, dead_letter=1) if status in DECIDED else Pruned())
    assert TaskRun.objects.exists() == DeadLetter.objects.exists() == (status not in DECIDED)


def test_letters_that_are_kept_keep_their_run_and_all_that_is_its(database: str, settings: Settings) -> None:
    keep(settings, failure=90)
    kept = letter(100, discarded=True)
    TaskAttemptFactory(run=kept.run, retried=True)

    assert prune() == Pruned()
    assert kept.run.attempts.count() == 1


def test_a_letter_is_as_old_as_its_decision_or_else_its_death(database: str, settings: Settings) -> None:
    keep(settings, dead_letter=30)
    decided_late = letter(100, discarded=True, decided_at=ago(29))
    letter(31, discarded=True, decided_at=ago(30.01))
    settled_by_itself = letter(29, superseded=True, decided_at=None)
    letter(31, resolved=True, decided_at=None)

    assert prune() == Pruned(dead_letter=2)
    assert set(DeadLetter.objects.all()) == {decided_late, settled_by_itself}


def test_a_run_outlives_its_old_letters_where_a_newer_one_is_open(database: str, settings: Settings) -> None:
    keep(settings, failure=90, dead_letter=30)
    first = letter(100, superseded=True)
    second = DeadLetterFactory(run=first.run, generation=1, previous=first)

    assert prune() == Pruned(dead_letter=1)
    second.refresh_from_db()
    assert (second.status, second.previous_id, second.run.state) == ("open", None, "FAILURE")


def test_a_link_between_letters_of_two_runs_is_cut(database: str, settings: Settings) -> None:
    keep(settings, dead_letter=30)
    moved, other = letter(100, superseded=True), letter(100, discarded=True, decided_at=ago(1))
    follower, unmoved = letter(1, previous=moved), letter(1, previous=other)

    assert prune() == Pruned(dead_letter=1)
    assert DeadLetter.objects.get(pk=follower.pk).previous_id is None
    assert DeadLetter.objects.get(pk=unmoved.pk).previous_id == other.pk


def test_everything_that_refers_to_what_is_deleted_is_known_here() -> None:
    """The collector would find it by itself; we do without."""

    def referring(model: type[Model]) -> set[tuple[Any, str]]:
        return {(each.related_model, each.field.name) for each in model._meta.related_objects}

    assert referring(TaskRun) == {(TaskAttempt, "run"), (RunEnvelope, "run"), (DeadLetter, "run")}
    assert referring(DeadLetter) == {(DeadLetter, "previous")}
    assert referring(OutboxEntry) == referring(WorkerBeat) == set()


@pytest.mark.parametrize("status", [OutboxStatus.DONE, OutboxStatus.FAILED])
@pytest.mark.parametrize("kind", sorted(set(OutboxKind) - {OutboxKind.CLAIM, OutboxKind.LEASE, OutboxKind.DRAFT}))
def test_what_was_carried_out_goes_after_a_week(database: str, kind: str, status: str) -> None:
    OutboxEntryFactory(kind=kind, status=status, created_at=ago(7.01))
    OutboxEntryFactory(kind=kind, status=status, created_at=ago(6.99))
    OutboxEntryFactory(kind=kind, created_at=ago(1000))

    assert prune() == Pruned(outbox=1)


def test_secrets_that_were_typed_and_not_sent_go_after_an_hour(database: str) -> None:
    OutboxEntryFactory(kind=OutboxKind.DRAFT, status=OutboxStatus.DONE, created_at=ago(1.1 / 24))
    OutboxEntryFactory(kind=OutboxKind.DRAFT, status=OutboxStatus.DONE, created_at=ago(0.9 / 24))

    assert prune() == Pruned(outbox=1)


def test_claims_stay_for_a_month_and_leases_for_ever(database: str) -> None:
    writer.database_id(create=True)
    for key in ("claim:database", "claim:unsent", "lease:housekeeping"):
        row, _created = OutboxEntry.objects.get_or_create(
            key=key, defaults={"kind": key.partition(":")[0], "status": OutboxStatus.DONE}
        )
        OutboxEntry.objects.filter(pk=row.pk).update(created_at=ago(30.99))
    assert prune() == Pruned()

    OutboxEntry.objects.update(created_at=ago(31.01))
    assert prune() == Pruned(outbox=1)
    assert set(OutboxEntry.objects.values_list("key", flat=True)) == {"claim:database", "lease:housekeeping"}


def test_workers_that_were_not_heard_of_for_a_week_go(database: str) -> None:
    WorkerBeatFactory(applied_at=ago(7.01), beat_at=ago(0))
    heard = WorkerBeatFactory(applied_at=ago(6.99), beat_at=ago(100))

    assert prune() == Pruned(worker=1)
    assert WorkerBeat.objects.get() == heard


def test_the_audit_and_the_quarantine_stay(database: str, settings: Settings) -> None:
    keep(settings, failure=90, dead_letter=30)
    AuditEntryFactory(letter=letter(100, discarded=True), at=ago(1000))
    QuarantinedEntryFactory(quarantined_at=ago(1000))

    assert prune() == Pruned(failure=1, dead_letter=1)
    assert (AuditEntry.objects.count(), QuarantinedEntry.objects.count()) == (1, 1)


def test_without_time_zones_ages_are_right_too(database: str, settings: Settings) -> None:
    settings.USE_TZ = False
    young, kept = ended(6.9), WorkerBeatFactory(applied_at=ago(6.9), started_at=ago(9), beat_at=ago(6.9))
    ended(7.1)
    WorkerBeatFactory(applied_at=ago(7.1), started_at=ago(9), beat_at=ago(7.1))

    assert prune() == Pruned(success=1, worker=1)
    assert (TaskRun.objects.get(), WorkerBeat.objects.get()) == (young, kept)


def test_a_dry_run_counts_what_would_go_and_writes_nothing(database: str, settings: Settings) -> None:
    keep(settings, success=7, failure=90, dead_letter=30)
    ended(8)
    for state in (TaskState.FAILURE, TaskState.REVOKED):
        ended(91, state)
    for fields in ({"resolved": True}, {"discarded": True, "decided_at": None}, {"discarded": True}):
        letter(100, **fields)
    letter(100)
    letter(100, discarded=True, decided_at=ago(1))
    both = letter(100, superseded=True)
    DeadLetterFactory(run=both.run, generation=1, previous=both)
    OutboxEntryFactory(done=True, created_at=ago(8))
    WorkerBeatFactory(applied_at=ago(8))

    with CaptureQueriesContext(connections[database]) as queries:
        counted = prune(dry_run=True)
    assert all(query["sql"].startswith("SELECT") for query in queries)
    assert counted == Pruned(success=1, failure=5, dead_letter=4, outbox=1, worker=1)
    assert prune() == counted
    assert prune() == Pruned()


def test_rows_that_are_kept_do_not_stand_in_the_way(
    database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many windows, of rows that go and rows that stay, some with the same instant at their border."""
    monkeypatch.setattr(prunable, "WINDOW", 3)
    keep(settings, success=7, failure=90)
    instant = ago(50)
    for place in range(20):
        state = TaskState.SUCCESS if place % 4 == 0 else TaskState.FAILURE
        TaskRunFactory(started=True, state=state, finished_at=instant if 5 < place < 15 else ago(50 - place))

    assert prune() == Pruned(success=5)


def test_a_window_is_looked_at_once(database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prunable, "WINDOW", 3)
    keep(settings, failure=90, dead_letter=None)
    for _ in range(9):
        letter(100)

    with CaptureQueriesContext(connections[database]) as queries:
        prune()
    looked = [query["sql"] for query in queries if " ORDER BY " in query["sql"] and "LIMIT 3" in query["sql"]]
    assert len([sql for sql in looked if "taskops_taskrun" in sql and "taskops_chord" not in sql]) == 4
    assert len(set(looked)) == len(looked)


def test_a_batch_takes_the_same_statements_whatever_its_size(database: str, settings: Settings) -> None:
    keep(settings, success=7, failure=90, dead_letter=30)

    def statements(number: int) -> int:
        for _ in range(number):
            first = letter(100, superseded=True)
            DeadLetterFactory(run=first.run, generation=1, previous=first)
            TaskAttemptFactory.create_batch(2, run=ended(8), retried=True)
        with CaptureQueriesContext(connections[database]) as queries:
            assert prune() == Pruned(success=number, dead_letter=number)
        return len(queries)

    assert statements(1) == statements(12)


def test_it_stops_when_its_time_is_over_and_the_next_call_goes_on(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FIRST_ROWS", 4)
    monkeypatch.setattr(retention, "AIM_SECONDS", 0)
    for _ in range(20):
        ended(8)

    assert prune(seconds=0) == Pruned(success=4)
    assert prune(seconds=0) == Pruned(success=4)
    assert prune() == Pruned(success=12)


@pytest.mark.parametrize(
    ("size", "rows", "seconds", "expected"),
    [
        (500, 500, 0.001, 750),
        (500, 500, 0.04, 625),
        (500, 100, 0.001, 500),
        (500, 500, 0.1, 250),
        (500, 100, 0.1, 50),
        (10, 10, 9.0, 10),
        (5000, 5000, 0.001, 5000),
    ],
)
def test_a_batch_is_as_large_as_the_last_one_was_quick(size: int, rows: int, seconds: float, expected: int) -> None:
    assert retention._next_size(size, rows, seconds) == expected


class Clock:
    """What the module sees of time; sleeping passes it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.step = 0.0

    def monotonic(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    told = Clock()
    monkeypatch.setattr(retention, "time", SimpleNamespace(monotonic=told.monotonic, sleep=told.sleep))
    return told


def test_the_chore_rests_after_a_pass(database: str, clock: Clock, django_assert_num_queries: Any) -> None:
    chore = Chore()
    ended(8)
    chore()
    assert not TaskRun.objects.exists()

    ended(8)
    clock.now += 599
    with django_assert_num_queries(0, using=database):
        chore()
    clock.now += 2
    chore()
    assert not TaskRun.objects.exists()


def test_the_chore_goes_on_where_it_stopped(database: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "FIRST_ROWS", 2)
    for _ in range(6):
        ended(8)
    clock.step = 0.6  # each batch takes its time
    chore = Chore()
    chore()
    left = TaskRun.objects.count()
    clock.step = 0.0

    assert 0 < left < 6
    chore()
    assert not TaskRun.objects.exists()


def test_after_a_long_pass_the_chore_rests_for_longer(database: str, clock: Clock) -> None:
    chore = Chore()
    clock.step = 5.0
    while chore._pass is not None or chore._not_before < 0:
        chore()
    clock.step = 0.0
    ended(8)
    clock.now += 700
    chore()

    assert TaskRun.objects.exists()


def test_after_an_error_the_chore_begins_again(database: str, settings: Settings, clock: Clock) -> None:
    chore = Chore()
    keep(settings, success=0)
    with pytest.raises(ImproperlyConfigured):
        chore()
    keep(settings, success=7)
    ended(8)
    chore()

    assert not TaskRun.objects.exists()
    assert repr(chore) == "retention"


def test_a_shared_sqlite_gets_one_transaction_a_call(
    database: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FIRST_ROWS", 2)
    monkeypatch.setattr(retention, "_is_shared", lambda: True)
    clock.step = 0.001
    for _ in range(5):
        ended(8)
    chore, left = Chore(), []
    for _ in range(3):
        chore()
        left.append(TaskRun.objects.count())

    assert left[0] == 3
    assert left == sorted(left, reverse=True)


@for_real
@pytest.mark.parametrize("database", ["default", "mariadb"], indirect=True)
def test_a_locked_run_is_passed_over_and_goes_the_next_time(database: str, settings: Settings) -> None:
    keep(settings, success=7, failure=90, dead_letter=30)
    held, free = ended(8), ended(9)
    followed = letter(100, superseded=True)
    follower = letter(1, previous=followed)

    with locked(TaskRun, held.pk), locked(DeadLetter, follower.pk):
        assert prune() == Pruned(success=1)
        assert set(TaskRun.objects.filter(pk__in=[held.pk, free.pk])) == {held}
        assert DeadLetter.objects.filter(pk=followed.pk).exists()
    with locked(TaskRun, followed.run_id):
        assert prune() == Pruned(success=1)
    assert prune() == Pruned(failure=1, dead_letter=1)


@for_real
def test_a_writer_at_the_same_moment_loses_nothing(database: str, settings: Settings) -> None:
    """Old failures are sent again and succeed, while they are due: whoever is first, the re-run is there."""
    keep(settings, success=7, failure=90)
    stories = [Story() for _ in range(60)]
    for story in stories:
        writer.apply([story.published(), story.started(), story.failed(dead_letter=False)])
        story.requeued()
    TaskRun.objects.update(finished_at=ago(100))
    barrier = Barrier(2)

    def rerun() -> None:
        barrier.wait(timeout=30)
        for story in stories:
            writer.apply([story.published(), story.started(), replace(story.succeeded(), at=datetime.now(UTC))])

    def pruning() -> None:
        barrier.wait(timeout=30)
        for _ in range(20):
            prune()

    in_threads(database, rerun, pruning)

    runs = {run.task_id: run for run in TaskRun.objects.all()}
    assert set(runs) == {story.task_id for story in stories}
    assert {(run.state, run.generation) for run in runs.values()} == {("SUCCESS", 1)}


@for_real
def test_two_at_once_delete_everything_once(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "FIRST_ROWS", 5)
    for _ in range(60):
        TaskAttemptFactory(run=ended(8), retried=True)
    barrier = Barrier(2)

    def pruning() -> int:
        barrier.wait(timeout=30)
        return prune().success

    first, second = in_threads(database, pruning, pruning)

    assert first + second == 60
    assert not TaskRun.objects.exists()


@pytest.mark.parametrize("deadlocks", [1, 3])
def test_a_batch_that_meets_a_deadlock_is_begun_again(
    database: str, monkeypatch: pytest.MonkeyPatch, deadlocks: int
) -> None:
    """Which MariaDB sees now and then where two delete neighbouring rows."""
    for _ in range(3):
        TaskAttemptFactory(run=ended(8), retried=True)
    left = deadlocks
    delete = prunable._delete

    def delete_but(model: Any, **chosen: Any) -> int:
        nonlocal left
        deleted = delete(model, **chosen)
        if model is TaskAttempt and left:
            left -= 1
            raise OperationalError(1213, "Deadlock found when trying to get lock")
        return deleted

    monkeypatch.setattr(prunable, "_delete", delete_but)

    assert prune().success == 3
    assert left == 0
    assert not TaskRun.objects.exists()


def test_an_error_that_is_no_deadlock_ends_the_pass(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    TaskAttemptFactory(run=ended(8), retried=True)
    tried: list[Any] = []

    def fail(model: Any, **chosen: Any) -> int:
        tried.append(model)
        raise OperationalError("the disk is full")

    monkeypatch.setattr(prunable, "_delete", fail)

    with pytest.raises(OperationalError, match="the disk is full"):
        prune()
    assert len(tried) == 1
    assert TaskRun.objects.count() == 1


@contextmanager
def locked(model: type[Model], pk: int) -> Iterator[None]:
    """By another connection."""
    other = connections[model._default_manager.db].copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute(f"SELECT id FROM {model._meta.db_table} WHERE id = %s FOR UPDATE", [pk])
            yield
        other.rollback()
    finally:
        other.close()


def in_threads(database: str, *functions: Callable[[], Any]) -> list[Any]:
    """What they return, each on a connection of its own."""

    def run(function: Callable[[], Any]) -> Any:
        try:
            return function()
        finally:
            connections[database].close()

    with ThreadPoolExecutor(len(functions)) as threads:
        return list(threads.map(run, functions))


def old_chord(group_id: str, days: float = 32, **fields: Any) -> Chord:
    """With the result of a member that has succeeded."""
    chord: Chord = Chord.objects.create(group_id=group_id, members=["a"], created_at=ago(days), **fields)
    ChordResult.objects.create(chord=chord, task_id="a", content_type="", content_encoding="", result=b"1")
    return chord


def test_a_chord_goes_after_a_month_unless_a_member_is_dead(database: str) -> None:
    old_chord("gone")
    old_chord("dead")
    old_chord("new", days=0)
    TaskRunFactory(group_id="dead", state="FAILURE", reason="failed")

    assert prune() == Pruned(chord=1)
    assert sorted(Chord.objects.values_list("group_id", flat=True)) == ["dead", "new"]
    assert ChordResult.objects.count() == 2


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_a_chord_stays_while_a_member_runs_once_more(database: str, state: str) -> None:
    old_chord("g", envelope=b"x", failed=True)
    TaskRunFactory(group_id="g", published=ago(32), state=state, generation=1)

    assert prune() == Pruned()
    assert ChordResult.objects.exists()


def test_a_chord_that_waits_goes_a_month_after_the_last_end_of_a_member(database: str, settings: Settings) -> None:
    """Until then it may be about to be joined."""
    keep(settings, success=None)
    old_chord("g", days=64, envelope=b"x", failed=True)
    run = ended(30.99, group_id="g", generation=1)
    assert prune() == Pruned()

    TaskRun.objects.filter(pk=run.pk).update(finished_at=ago(31.01))
    assert prune() == Pruned(chord=1)
    assert not ChordResult.objects.exists()


@pytest.mark.parametrize("status", sorted(LetterStatus))
def test_a_chord_stays_while_a_letter_of_a_member_waits(database: str, status: str) -> None:
    """Of one whose re-run was revoked, nothing else says that it can be put back."""
    old_chord("g", envelope=b"x", failed=True)
    run = ended(40, TaskState.REVOKED, reason="revoked", group_id="g", generation=1)
    DeadLetterFactory(run=run, reason="failed", status=status)

    kept = status in (LetterStatus.OPEN, LetterStatus.REQUEUED)
    assert prune() == (Pruned() if kept else Pruned(chord=1))


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("status", sorted(LetterStatus))
def test_what_was_given_up_stays_with_its_chord_while_the_letter_of_its_cause_waits(
    database: str, settings: Settings, status: str, *, moved: bool
) -> None:
    """The last step of a chain in the header, the first of which is dead."""
    keep(settings, failure=14)
    cause = DeadLetterFactory(run__published=ago(41), status=status)
    if moved:
        rerun = ended(40, TaskState.REVOKED, reason="revoked", requeued_from=cause.task_id)
        DeadLetterFactory(run=rerun, reason="expired", discarded=True)  # keeps it
    parent = rerun.task_id if moved else cause.task_id
    ended(40, TaskState.FAILURE, reason="upstream_failed", group_id="g", parent_id=parent)
    old_chord("g", days=40, failed=True)

    kept = status in (LetterStatus.OPEN, LetterStatus.REQUEUED)
    assert prune() == (Pruned() if kept else Pruned(failure=1, chord=1))


def test_the_members_of_chords_are_found_by_an_index(database: str) -> None:
    old_chord("g")
    with CaptureQueriesContext(connections[database]) as captured:
        prune()

    looked = next(query["sql"] for query in captured if "taskops_chord" in query["sql"] and "due" in query["sql"])
    assert "taskops_run_group" in plan_of(database, looked)
