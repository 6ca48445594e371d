"""An order to let a failure through, carried out in this process: at least once, step by step."""

from typing import Any

import pytest
from celery import current_app
from celery.app.trace import build_tracer
from django.db import OperationalError
from pytest_django import Settings

from django_taskops import tracked_task
from django_taskops.capture import parking as capture
from django_taskops.capture.envelope import Envelope
from django_taskops.events import EventKind
from django_taskops.exceptions import InvalidOption
from django_taskops.models import DeadLetter, OutboxEntry, OutboxStatus, TaskRun
from django_taskops.projection import writer
from django_taskops.recovery import discard, parking, restore
from django_taskops.recovery.outbox import carry_out
from django_taskops.recovery.parking.failure import rebuilt
from django_taskops.recovery.reaper.judgement import Judgement, execute
from django_taskops.states import DeadLetterReason, LetterStatus
from tests.events import Story
from tests.lifecycle.cases import key
from tests.parking import tasks as parked
from tests.tasks import calls, counters
from tests.workers import BrokerQueue

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
]


def letter_of(queue: BrokerQueue, result: Any, **outcome: Any) -> DeadLetter:
    """The letter of a task that was really published, and that is said to have died parked."""
    queue.drop()
    writer.apply([story_of(result).failed(parked=True, **outcome)])
    letter: DeadLetter = DeadLetter.objects.get(task_id=result.id)
    return letter


def story_of(result: Any) -> Story:
    run = TaskRun.objects.get(task_id=result.id)
    story = Story(result.id, run.task_name)
    story.publication, story.delivery = run.publication, "d"
    return story


def order_of(letter: DeadLetter) -> OutboxEntry:
    order: OutboxEntry = parking.orders(letter).get()
    return order


def test_restored_in_time_it_is_parked_again(database: str, queue: BrokerQueue) -> None:
    result = parked.early.delay(key(), "exception")
    letter = letter_of(queue, result)
    discard(letter)
    assert (letter.parked, letter.let_through_at is None) == (False, False)
    restore(letter)

    letter.refresh_from_db()
    assert (letter.status, letter.parked, letter.let_through_at) == (LetterStatus.OPEN, True, None)
    carry_out()
    assert result.state == "PENDING"
    discard(letter)
    carry_out()
    assert isinstance(result.result, KeyError)


def test_an_order_that_can_not_be_carried_out_can_be_taken_back(
    database: str, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = letter_of(queue, parked.early.delay(key(), "exception"))
    discard(letter)
    with monkeypatch.context() as down:
        down.setattr(type(current_app.backend), "mark_as_failure", _refuse)
        carry_out()
    assert order_of(letter).error == "OperationalError: the backend is down"
    restore(letter)

    assert letter.parked


def _refuse(*_args: Any, **_kwargs: Any) -> None:
    raise OperationalError("the backend is down")


def test_an_interrupted_order_goes_on_where_it_stood(database: str, queue: BrokerQueue) -> None:
    name = key()
    errbacks = [parked.note_at_once.s(key=f"{name} 1"), parked.note_at_once.s(key=f"{name} 2")]
    result = parked.early.apply_async((name, "exception"), link_error=errbacks)
    letter = letter_of(queue, result)
    discard(letter)
    parking.orders(letter).update(payload={"dead_letter": letter.pk, "done": 2})
    carry_out()

    assert result.state == "PENDING"
    assert [counters().llen(f"noted at once:{name} {number}") for number in (1, 2)] == [0, 1]
    assert order_of(letter).status == OutboxStatus.DONE


def test_an_errback_that_fails_keeps_nobody_from_the_others(database: str, queue: BrokerQueue) -> None:
    name = key()
    errbacks = [parked.raise_at_once.s(key=name), parked.note_at_once.s(key=name)]
    letter = letter_of(queue, parked.early.apply_async((name, "exception"), link_error=errbacks))
    discard(letter)
    carry_out()

    assert (calls(f"raised:{name}"), counters().llen(f"noted at once:{name}")) == (1, 1)
    assert order_of(letter).status == OutboxStatus.DONE


def test_a_success_that_only_we_have_not_heard_of_stays(database: str, queue: BrokerQueue) -> None:
    result = parked.early.delay(key(), "exception")
    letter = letter_of(queue, result)
    current_app.backend.store_result(result.id, "done", "SUCCESS")
    discard(letter)
    carry_out()

    assert result.get(timeout=1) == "done"


def test_of_a_message_that_was_not_kept_the_result_is_told(database: str, queue: BrokerQueue) -> None:
    result = parked.early.delay(key(), "exception")
    letter = letter_of(queue, result)
    DeadLetter.objects.update(envelope=None, envelope_error="too large")
    discard(letter)
    carry_out()

    assert result.state == "FAILURE"


def test_what_belongs_to_another_app_waits_for_its_workers(database: str, queue: BrokerQueue) -> None:
    letter = letter_of(queue, parked.early.delay(key(), "exception"))
    envelope = Envelope.from_bytes(letter.envelope or b"").to_bytes().replace(b'"app": ""', b'"app": "another"')
    DeadLetter.objects.update(envelope=envelope)
    discard(letter)
    carry_out()

    assert "expected the Celery app 'another'" in order_of(letter).error


def test_what_has_run_again_meanwhile_is_not_told_of(database: str, queue: BrokerQueue) -> None:
    result = parked.early.delay(key(), "exception")
    letter = letter_of(queue, result)
    discard(letter)
    again = story_of(result).requeued()
    writer.apply([again.started()])
    carry_out()

    assert result.state == "PENDING"


def test_a_late_word_parks_nothing_that_was_let_through(database: str, queue: BrokerQueue) -> None:
    result = parked.early.delay(key(), "exception")
    story = story_of(result)
    writer.apply([story.ended(EventKind.WORKER_LOST, parked=True)])
    letter = DeadLetter.objects.get()
    discard(letter)
    writer.apply([story.failed(parked=True)])

    letter.refresh_from_db()
    assert (letter.reason, letter.parked) == (DeadLetterReason.FAILED, False)


def test_the_same_word_twice_leaves_it_parked(database: str, queue: BrokerQueue) -> None:
    result = parked.early.delay(key(), "exception")
    event = story_of(result).failed(parked=True)
    for _time in range(2):
        writer.apply([event])

    assert DeadLetter.objects.get().parked


@pytest.mark.parametrize(
    ("kind", "reason", "is_parked"),
    [
        (EventKind.WORKER_LOST, DeadLetterReason.WORKER_LOST, True),
        (EventKind.CANCELLED, DeadLetterReason.CANCELLED, True),
        (EventKind.UNDELIVERED, DeadLetterReason.UNDELIVERED, True),
        (EventKind.REVOKED, DeadLetterReason.EXPIRED, False),
    ],
)
def test_what_the_reaper_ends_is_as_good_as_parked(
    database: str, queue: BrokerQueue, kind: EventKind, reason: DeadLetterReason, *, is_parked: bool
) -> None:
    """Nothing was stored. What has expired gets a new id when it is put back, so that nothing could wait for it."""
    result = parked.early.delay(key(), "exception")
    writer.apply([story_of(result).started()])
    run = TaskRun.objects.get()
    execute([Judgement(run=run, kind=kind, reason=reason, description="its worker is gone")])

    letter = DeadLetter.objects.get()
    assert letter.parked is is_parked
    discard(letter)
    carry_out()
    assert (result.state, is_parked) in [("FAILURE", True), ("PENDING", False)]
    if reason == DeadLetterReason.WORKER_LOST:
        assert repr(result.result) == "WorkerLostError('its worker is gone')"


def test_a_failure_that_can_not_be_recorded_goes_out(database: str, queue: BrokerQueue, broken_journal: None) -> None:
    assert _traced(parked.early, key()) == "FAILURE"


def test_a_failure_that_is_recorded_does_not_go_out(database: str, queue: BrokerQueue) -> None:
    assert _traced(parked.early, key()) == "PENDING"
    assert DeadLetter.objects.get().parked


def _traced(declared: Any, name: str) -> str:
    """What Celery says of a task that dies, as in a worker."""
    task: Any = current_app.tasks[declared.name]
    capture.install(task)
    try:
        trace = build_tracer(task.name, task, app=current_app)
        request = {"id": name, "delivery_info": {}, "root_id": name, "retries": 0, "is_eager": False}
        trace(name, [name, "exception"], {}, request)
    finally:
        task.backend = None
    return str(current_app.AsyncResult(name).state)


def test_what_runs_eagerly_fails_as_ever(database: str, settings: Settings) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "RECORD_EAGER": True}
    result = parked.early.apply([key(), "exception"])

    assert isinstance(result.result, parked.OutOfStock)
    assert not DeadLetter.objects.get(task_id=result.id).parked


def test_nobody_could_let_through_what_has_no_letter(database: str) -> None:
    with pytest.raises(InvalidOption, match=r"on_exhausted.*dead_letter=False"):
        tracked_task(on_exhausted="park", dead_letter=False)(lambda: None)


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), KeyError("sku"), OSError(2, "No such file"), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")],
)
def test_an_exception_is_made_anew_from_its_type_and_message(database: str, error: Exception) -> None:
    made = rebuilt(type(error).__name__, str(error), "failed")

    assert (type(made).__name__, str(made)) == (type(error).__name__, str(error))


def test_the_type_of_an_exception_that_is_not_loaded_here_is_known_by_its_name(database: str) -> None:
    made = rebuilt("shop.errors.SupplierDown", "503", "failed")

    assert (type(made).__module__, type(made).__name__, str(made)) == ("shop.errors", "SupplierDown", "503")
