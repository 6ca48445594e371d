"""Verdicts on runs that nobody else will end."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from django_taskops.events import EventKind
from django_taskops.exceptions import NotRequeueable
from django_taskops.models import AuditEntry, DeadLetter, OutboxEntry, OutboxKind, TaskRun
from django_taskops.projection import writer
from django_taskops.recovery import preflight
from django_taskops.recovery.reaper.judgement import Judgement, execute
from django_taskops.recovery.reaper.restarts import Restarts
from django_taskops.states import DeadLetterReason, LetterStatus
from tests.events import Story


def started(story: Story) -> TaskRun:
    writer.apply([story.published(), story.started()])
    run: TaskRun = TaskRun.objects.get(task_id=story.task_id)
    return run


def lost(run: TaskRun, **facts: Any) -> Judgement:
    given = {"kind": EventKind.WORKER_LOST, "reason": DeadLetterReason.WORKER_LOST, "description": "silent"}
    return Judgement(run=run, **{**given, **facts})


def test_a_lost_run_leaves_a_letter_with_its_message_and_the_evidence(database: str) -> None:
    run = started(Story())
    assert len(execute([lost(run)])) == 1

    run.refresh_from_db()
    assert (run.state, run.reason, run.exception_message) == ("FAILURE", "worker_lost", "silent")
    letter = DeadLetter.objects.get(run=run)
    assert (letter.status, letter.description, bytes(letter.envelope)) == (LetterStatus.OPEN, "silent", b"blob")
    entry = AuditEntry.objects.get(task_id=run.task_id)
    assert (entry.action, entry.outcome, entry.why, entry.user_name) == ("reap", "worker_lost", "silent", "")
    assert entry.details["delivery"] == run.delivery


@pytest.mark.parametrize("ended", [EventKind.SUCCEEDED, EventKind.FAILED, EventKind.BROKE, EventKind.RETRIED])
def test_one_that_has_ended_meanwhile_is_left_alone(database: str, ended: EventKind) -> None:
    story = Story()
    run = started(story)
    writer.apply([story.ended(ended)])
    before = TaskRun.objects.values().get(pk=run.pk)

    assert execute([lost(run, rerun=True)]) == []
    assert TaskRun.objects.values().get(pk=run.pk) == before
    assert not AuditEntry.objects.exists()
    assert not OutboxEntry.objects.filter(kind=OutboxKind.RERUN).exists()


def test_the_others_of_a_batch_are_judged_all_the_same(database: str) -> None:
    stories = [Story() for _ in range(450)]
    writer.apply([event for story in stories for event in (story.published(), story.started())])
    runs = {run.task_id: run for run in TaskRun.objects.all()}
    writer.apply([stories[7].succeeded()])

    done = execute([lost(runs[story.task_id]) for story in stories])

    assert len(done) == 449
    assert TaskRun.objects.filter(reason="worker_lost").count() == 449
    assert DeadLetter.objects.count() == AuditEntry.objects.count() == 449


@pytest.mark.parametrize(
    ("late", "state", "status"),
    [
        (EventKind.SUCCEEDED, "SUCCESS", LetterStatus.RESOLVED),
        (EventKind.IGNORED, "IGNORED", LetterStatus.RESOLVED),
        (EventKind.FAILED, "FAILURE", LetterStatus.OPEN),
    ],
)
def test_what_it_really_came_to_wins(database: str, late: EventKind, state: str, status: LetterStatus) -> None:
    story = Story()
    run = started(story)
    execute([lost(run)])
    writer.apply([story.ended(late, reason="failed" if late is EventKind.FAILED else "")])

    run.refresh_from_db()
    assert run.state == state
    assert DeadLetter.objects.get(run=run).status == status
    assert AuditEntry.objects.filter(action="reap").count() == 1


def test_what_the_broker_delivers_again_is_no_letter_and_waits(database: str) -> None:
    story = Story()
    run = started(story)
    due = timezone.now() + timedelta(hours=1)
    execute([lost(run, kind=EventKind.ABANDONED, retry_at=due)])

    run.refresh_from_db()
    assert (run.state, run.reason, run.retry_at) == ("RETRY", "worker_lost", due)
    assert not DeadLetter.objects.exists()
    assert preflight.redelivery_due(run) == due
    letter = DeadLetter(run=run, publication=run.publication, generation=run.generation)
    with pytest.raises(NotRequeueable) as refusal:
        preflight.check_idle(letter, run)
    assert refusal.value.code == "redelivery_pending"
    run.retry_at = timezone.now() - timedelta(seconds=1)
    preflight.check_idle(letter, run)


def test_its_redelivery_is_another_attempt(database: str) -> None:
    story = Story()
    run = started(story)
    execute([lost(run, kind=EventKind.ABANDONED, retry_at=timezone.now())])
    story.delivery = "another"
    writer.apply([story.started(), story.succeeded()])

    run.refresh_from_db()
    assert (run.state, run.starts()) == ("SUCCESS", 2)
    assert [(attempt.state, attempt.reason) for attempt in run.attempts.all()] == [("RETRY", "worker_lost")]


def test_one_that_was_never_received_is_what_it_becomes_when_it_comes_after_all(database: str) -> None:
    story = Story()
    writer.apply([story.published()])
    run = TaskRun.objects.get(task_id=story.task_id)
    never = lost(run, kind=EventKind.UNDELIVERED, reason=DeadLetterReason.UNDELIVERED, delivery="never", retries=0)
    execute([never])
    assert DeadLetter.objects.get(run=run).reason == "undelivered"

    writer.apply([story.started()])
    run.refresh_from_db()
    assert run.state == "STARTED"
    writer.apply([story.succeeded()])
    run.refresh_from_db()
    assert (run.state, run.starts()) == ("SUCCESS", 1)
    assert DeadLetter.objects.get(run=run).status == LetterStatus.RESOLVED


def test_a_message_that_is_refused_changes_nothing_that_the_run_shows(database: str) -> None:
    story = Story()
    run = started(story)
    execute([lost(run, reason=DeadLetterReason.POISON)])
    story.delivery = "again"
    writer.apply([story.received()])
    writer.apply([story.ended(EventKind.IGNORED, reason="duplicate")])

    run.refresh_from_db()
    assert (run.state, run.reason) == ("FAILURE", "poison")
    assert DeadLetter.objects.get(run=run).status == LetterStatus.OPEN
    assert run.attempts.filter(reason="duplicate").count() == 1
    assert run.starts() == 1


class _Redis:
    """A source that tells which run of its server it speaks to."""

    def __init__(self, run_id: str) -> None:
        self.told = run_id

    def run_id(self) -> str:
        return self.told


def test_a_restart_of_redis_is_remembered_by_whoever_judges_next(database: str) -> None:
    before = timezone.now()
    first: Any = Restarts()
    server: Any = _Redis("one")
    first.look([server])
    assert not first.happened_since(before)

    server.told = "two"
    first.look([server])
    second: Any = Restarts()
    second.look([server])
    for each in (first, second):
        assert each.happened_since(before)
        assert not each.happened_since(timezone.now() + timedelta(hours=1))
