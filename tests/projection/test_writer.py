"""The batch protocol on real databases: idempotent, bulk, correct with several writers at once."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.db import DataError, connections, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from django_taskops.conf import conf
from django_taskops.events import Call, Event, EventKind
from django_taskops.models import DeadLetter, OutboxEntry, OutboxKind, RunEnvelope, TaskAttempt, TaskRun
from django_taskops.projection import rows, writer
from django_taskops.projection.merge import Run, merge
from django_taskops.states import DeadLetterReason, LetterStatus, TaskState
from tests import databases
from tests.events import Story
from tests.services import ALIASES, MARIADB

pytestmark = pytest.mark.mariadb

both_for_real = pytest.mark.django_db(transaction=True)


def test_a_first_success_costs_one_row_and_leaves_no_envelope(database: str) -> None:
    story = Story()
    writer.apply([story.published(args=[1]), story.received(), story.started(), story.succeeded(result="ok")])

    run = TaskRun.objects.get()
    assert (run.task_id, run.state, run.queue, run.worker, run.pid) == (
        story.task_id,
        "SUCCESS",
        "celery",
        "w1@shop",
        7,
    )
    assert (run.args, run.result, run.version, run.starts()) == ([1], "ok", "1.0", 1)
    assert run.enqueued_at < run.received_at < run.started_at < run.finished_at
    assert not TaskAttempt.objects.exists()
    assert not RunEnvelope.objects.exists()


@pytest.mark.parametrize("database", [*ALIASES, MARIADB], indirect=True)
def test_ids_that_look_alike_are_different_runs(database: str) -> None:
    """MySQL by itself takes them for one."""
    stories = [Story(task_id) for task_id in ("order-7", "ORDER-7", "order-7 ", "order-7\t", "ördér-7", "order-🚚")]

    writer.apply([story.published() for story in stories])
    writer.apply([stories[1].started(), stories[1].failed()])

    assert set(TaskRun.objects.values_list("task_id", "state")) == {
        (story.task_id, "FAILURE" if story is stories[1] else "PENDING") for story in stories
    }
    assert DeadLetter.objects.get().task_id == "ORDER-7"


def test_deliveries_that_did_not_succeed_become_attempts_in_order(database: str) -> None:
    story = Story()
    writer.apply([story.published(), story.started(), story.retried(), story.started(), story.retried()])
    writer.apply([story.started(), story.succeeded()])

    run = TaskRun.objects.get()
    attempts = [(attempt.number, attempt.state, attempt.exception_type) for attempt in run.attempts.all()]
    assert attempts == [(1, "RETRY", "OSError"), (2, "RETRY", "OSError")]
    assert (run.state, run.retries, run.starts()) == (TaskState.SUCCESS, 2, 3)


def test_a_death_leaves_one_letter_with_its_envelope_and_an_outbox_row(database: str) -> None:
    story = Story()
    events = [story.published(), story.started(), story.failed(dead_letter_queue="orders.dead")]
    for _ in range(2):  # told twice
        writer.apply(events)

    letter = DeadLetter.objects.get()
    assert (letter.task_id, letter.reason, letter.status) == (story.task_id, "failed", LetterStatus.OPEN)
    assert letter.description == "KeyError: 'sku'"
    assert bytes(letter.envelope) == b"blob"
    assert set(OutboxEntry.objects.values_list("kind", flat=True)) == {
        OutboxKind.DEAD_LETTERED,
        OutboxKind.DEAD_LETTER_QUEUE,
    }
    assert not RunEnvelope.objects.exists()


def test_rows_and_outbox_are_written_together_or_not_at_all(database: str) -> None:
    story = Story()
    with transaction.atomic(using=database):
        writer.apply([story.published(), story.failed()])
        assert OutboxEntry.objects.exists()
        transaction.set_rollback(True, using=database)

    assert not TaskRun.objects.exists()
    assert not OutboxEntry.objects.exists()


def test_a_publish_that_is_told_after_the_death_still_gives_the_letter_its_envelope(database: str) -> None:
    """A worker quicker than the publisher's commit."""
    story = Story()
    published = story.published()
    writer.apply([story.started(), story.failed()])
    writer.apply([published])

    assert bytes(DeadLetter.objects.get().envelope) == b"blob"


def test_a_requeue_that_dies_points_back_and_one_that_succeeds_resolves(database: str) -> None:
    story = Story()
    writer.apply([story.published(), story.started(), story.failed()])
    story.requeued()
    writer.apply([story.published(), story.started(), story.failed()])
    first, second = DeadLetter.objects.order_by("generation")
    assert (first.status, second.status, second.previous_id) == (LetterStatus.SUPERSEDED, LetterStatus.OPEN, first.pk)

    story.requeued()
    writer.apply([story.published(), story.started(), story.succeeded()])
    assert set(DeadLetter.objects.values_list("status", flat=True)) == {LetterStatus.RESOLVED}
    assert OutboxEntry.objects.filter(kind=OutboxKind.RESOLVED).count() == 2


@pytest.mark.parametrize("in_order", [True, False])
def test_of_a_letter_whose_rerun_was_revoked_nothing_is_withheld_any_more(database: str, in_order: Any) -> None:
    """Celery has told whoever waited for it."""
    story = Story()
    died = [story.published(), story.started(), story.failed(parked=True)]
    story.requeued()
    revoked = [story.published(), story.ended(EventKind.REVOKED)]
    for batch in (died, revoked) if in_order else (revoked, died):
        writer.apply(batch)

    letter = DeadLetter.objects.get()
    assert (letter.status, letter.parked) == (LetterStatus.OPEN, False)


def test_that_a_letter_is_open_again_is_told_as_no_other_death(database: str) -> None:
    story = Story()
    writer.apply([story.published(), story.started(), story.failed()])
    DeadLetter.objects.update(status=LetterStatus.REQUEUED, sent_generation=1)
    OutboxEntry.objects.all().delete()  # as retention does after a week
    story.requeued()
    writer.apply([story.published(), story.ended(EventKind.REVOKED)])

    assert DeadLetter.objects.get().status == LetterStatus.OPEN
    assert not OutboxEntry.objects.exists()


def test_what_becomes_of_a_new_id_settles_the_letter_that_was_requeued_as_it(database: str) -> None:
    story, healed, died = Story(), Story(), Story()
    for new in (healed, died):
        old = Story(f"old-of-{new.task_id}")
        writer.apply([old.published(), old.ended(EventKind.REVOKED, reason=DeadLetterReason.EXPIRED)])
        DeadLetter.objects.filter(task_id=old.task_id).update(status="requeued", requeued_as=new.task_id)
        writer.apply([new.published(requeued_from=old.task_id), new.started()])
    writer.apply([healed.succeeded(), died.failed()])

    assert DeadLetter.objects.get(requeued_as=healed.task_id).status == LetterStatus.RESOLVED
    superseded = DeadLetter.objects.get(requeued_as=died.task_id)
    assert superseded.status == LetterStatus.SUPERSEDED
    assert DeadLetter.objects.get(task_id=died.task_id).previous == superseded
    assert story.task_id not in TaskRun.objects.values_list("task_id", flat=True)


def test_a_batch_takes_as_many_statements_as_a_single_event(database: str) -> None:
    def statements(runs: int) -> int:
        stories = [Story() for _ in range(runs)]
        first = [event for story in stories for event in (story.published(), story.started())]
        second = [story.retried() if place % 2 else story.failed() for place, story in enumerate(stories)]
        writer.apply(first)
        with CaptureQueriesContext(connections[database]) as queries:
            writer.apply(second)
        return len(queries)

    assert statements(2) == statements(18) <= 20


def test_a_failing_apply_does_not_poison_the_callers_transaction(database: str) -> None:
    unstorable = Story().published(group_index=2**70)
    with transaction.atomic(using=database):
        with pytest.raises((DataError, OverflowError)):
            writer.apply([unstorable])
        assert TaskRun.objects.count() == 0


@both_for_real
def test_two_writers_over_the_same_runs_lose_nothing(database: str) -> None:
    """Each run's events are dealt to two connections, which apply them at the same moment in small batches."""
    stories = [Story() for _ in range(15)]
    dealt: tuple[list[Event], list[Event]] = ([], [])
    for place, story in enumerate(stories):
        events = [story.published(), story.started(), story.retried(), story.started()]
        events.append(story.succeeded() if place % 3 else story.failed())
        for turn, event in enumerate(events):
            dealt[(turn + place) % 2].append(event)
    barrier = Barrier(2)

    def apply(events: list[Event]) -> None:
        try:
            for start in range(0, len(events), 4):
                barrier.wait(timeout=30)
                writer.apply(events[start : start + 4])
        finally:
            connections[database].close()

    size = min(len(part) for part in dealt) // 4 * 4
    rest = [event for part in dealt for event in part[size:]]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(apply, [part[:size] for part in dealt]))
    writer.apply(rest)

    runs = {run.task_id: run for run in TaskRun.objects.all()}
    assert len(runs) == len(stories)
    for place, story in enumerate(stories):
        run = runs[story.task_id]
        assert (run.state, run.queue, run.starts()) == ("SUCCESS" if place % 3 else "FAILURE", "celery", 2)
        assert run.attempts.filter(state="RETRY").count() == 1
        assert run.dead_letters.count() == (0 if place % 3 else 1)


@both_for_real
def test_of_two_claims_at_once_one_holds(database: str) -> None:
    barrier = Barrier(2)

    def claim(holder: str) -> list[str]:
        try:
            barrier.wait(timeout=30)
            return [writer.claim(f"key-{turn}", holder) for turn in range(20)]
        finally:
            connections[database].close()

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(claim, ["a", "b"])

    assert first == second
    assert set(first) <= {"a", "b"}


@both_for_real
@pytest.mark.parametrize("database", ["default", "mariadb"], indirect=True)
def test_a_dead_connection_is_replaced(database: str) -> None:
    story = Story()
    databases.end(database, databases.number_of(connections[database]))

    writer.apply_afresh([story.published()])

    assert TaskRun.objects.get().state == TaskState.PENDING


def test_without_time_zones_rows_hold_naive_instants_and_merging_goes_on_with_aware_ones(settings: Settings) -> None:
    settings.USE_TZ = False
    story = Story()
    merged = merge(Run(task_id=story.task_id), {}, [], [story.published(), story.started()])
    (attempt,) = merged.attempts or [merged.run.shown]
    row = TaskRun(task_id=story.task_id, started_at=rows.stored(attempt.started_at))

    assert row.started_at is not None
    assert row.started_at.tzinfo is None
    assert rows.run_of(row).shown.started_at == merged.run.shown.started_at


def test_related_rows_come_from_the_tables_database_whatever_the_routers_say(database: str, settings: Settings) -> None:
    settings.DATABASE_ROUTERS = [f"{__name__}.Elsewhere"]
    story = Story()
    writer.apply([story.published(), story.started(), story.failed()])
    writer.apply([story.requeued().started(), story.failed()])

    letter = DeadLetter.objects.get(generation=1)
    assert letter.run.task_id == story.task_id
    assert letter.previous is not None
    assert [attempt.run.task_id for attempt in letter.run.attempts.all()] == [story.task_id] * 2


class Elsewhere:
    """Sends every query to the other database."""

    def db_for_read(self, _model: Any, **_hints: Any) -> str:
        return "sqlite" if conf.DATABASE == "default" else "default"

    db_for_write = db_for_read


def test_a_revoked_new_id_opens_its_origin_again(database: str) -> None:
    old, new = Story(), Story()
    writer.apply([old.published(), old.ended(EventKind.REVOKED, reason=DeadLetterReason.EXPIRED)])
    DeadLetter.objects.update(status="requeued", requeued_as=new.task_id)
    writer.apply([new.published(requeued_from=old.task_id), new.ended(EventKind.REVOKED)])

    letter = DeadLetter.objects.get()
    assert (letter.status, letter.requeued_as) == (LetterStatus.OPEN, "")


def test_an_unknown_call_is_described_by_whoever_knows_more(database: str) -> None:
    story = Story()
    writer.apply([story.published(args=None), story.received(args=["from the wire"], envelope=b"wire")])

    assert TaskRun.objects.get().args == ["from the wire"]
    assert bytes(RunEnvelope.objects.get().envelope) == b"wire"
    assert Call().envelope is None
