"""A requeue whose process died, or whose broker did not answer, is finished: sent at least once, started only once."""

from base64 import b64decode
from dataclasses import replace
from datetime import timedelta
from typing import Any, NoReturn
from uuid import uuid4

import pytest
from django.utils import timezone
from kombu.utils import json

from django_taskops import journal
from django_taskops.capture import headers as own
from django_taskops.exceptions import AlreadyTaken, NotRequeueable
from django_taskops.models import AuditEntry, DeadLetter, OutboxEntry, OutboxKind, OutboxStatus, TaskAttempt, TaskRun
from django_taskops.projection import writer
from django_taskops.recovery import intents, requeue, sending
from django_taskops.recovery.broker import Publisher, Unconfirmed
from django_taskops.recovery.interrupted import MAX_TRIES, UNKNOWN, finish_interrupted
from django_taskops.states import DeadLetterReason, LetterStatus, QuietReason, TaskState
from tests import tasks
from tests.events import Story
from tests.recovery.test_requeue import letter_of
from tests.workers import BrokerQueue, Worker, WorkerStarter, eventually

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def letter(database: str, queue: BrokerQueue) -> DeadLetter:
    return letter_of(queue, lambda: tasks.fail.delay("out of stock"))


def interrupt(letter: DeadLetter, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Its process dies when the intent is committed, before the send."""
    with monkeypatch.context() as dying:
        dying.setattr(Publisher, "publish", _die)
        with pytest.raises(KeyboardInterrupt):
            requeue(letter, by="li", reason="the supplier is back", **options)


def interrupt_late(letter: DeadLetter, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Its process dies after the send."""
    with monkeypatch.context() as dying:
        dying.setattr(intents, "confirm", _die)
        with pytest.raises(KeyboardInterrupt):
            requeue(letter, **options)


def heard_of(letter: DeadLetter) -> None:
    story = Story(letter.task_id, letter.task_name)
    story.publication, story.generation = letter.publication, 1
    writer.apply([story.started()])


def succeed_late(letter: DeadLetter) -> None:
    """The delivery that had died has ended well, and tells it now."""
    story = Story(letter.task_id, letter.task_name)
    story.publication = letter.publication
    writer.apply([replace(story.succeeded(), delivery="another")])


def two_minutes_later() -> None:
    earlier = timezone.now() - timedelta(minutes=2)
    OutboxEntry.objects.filter(kind=OutboxKind.REQUEUE).update(created_at=earlier, available_at=earlier)


def _die(*args: Any) -> NoReturn:
    raise KeyboardInterrupt


def _refuse(*args: Any) -> NoReturn:
    raise ConnectionRefusedError("nobody listens")


def _lose_the_answer(*args: Any) -> NoReturn:
    raise Unconfirmed("no answer")


def test_what_was_not_sent_is_sent_a_minute_later_in_the_name_of_who_decided(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(letter, monkeypatch)
    finish_interrupted()
    assert len(queue) == 0  # somebody may still be sending

    two_minutes_later()
    finish_interrupted()
    assert [message["headers"][own.GENERATION] for message in queue.messages()] == [1]
    letter.refresh_from_db()
    assert letter.status == LetterStatus.REQUEUED
    assert OutboxEntry.objects.get(kind=OutboxKind.REQUEUE).status == OutboxStatus.DONE
    entry = AuditEntry.objects.get()
    assert (entry.outcome, entry.user_name, entry.why) == ("sent", "li", "the supplier is back")


def test_what_was_sent_twice_starts_once(
    database: str, queue: BrokerQueue, start_worker: WorkerStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = uuid4().hex
    letter = letter_of(queue, lambda: tasks.broken_until_healed.delay(key))
    tasks.heal(key)
    interrupt_late(letter, monkeypatch)
    two_minutes_later()
    finish_interrupted()
    first, second = (message["headers"] for message in queue.messages())
    assert first[own.NONCE] != second[own.NONCE]
    start_worker()

    eventually(lambda: TaskAttempt.objects.get(run=letter.run_id, reason=QuietReason.DUPLICATE))
    eventually(lambda: DeadLetter.objects.get(pk=letter.pk).status == LetterStatus.RESOLVED)
    assert (tasks.calls(key), TaskRun.objects.get().state) == (1, TaskState.SUCCESS)


def test_a_message_of_one_send_that_the_broker_delivers_again_runs_again(
    database: str, queue: BrokerQueue, start_worker: WorkerStarter
) -> None:
    """As after a lost acknowledgement: that is the broker's promise, and not ours to break."""
    key = uuid4().hex
    letter = letter_of(queue, lambda: tasks.broken_until_healed.delay(key))
    tasks.heal(key)
    requeue(letter)
    queue.put(queue.messages()[0])
    start_worker()

    eventually(lambda: tasks.calls(key) == 2)


def test_edited_arguments_are_sent_and_then_forgotten(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(letter, monkeypatch, args=["in stock"], countdown=60)
    two_minutes_later()
    finish_interrupted()

    (message,) = queue.messages()
    assert json.loads(b64decode(message["body"]))[0] == ["in stock"]
    assert message["headers"]["eta"]
    assert "envelope" not in OutboxEntry.objects.get(kind=OutboxKind.REQUEUE).payload


@pytest.mark.parametrize("late", [False, True])
def test_the_audit_says_what_was_edited_and_forced(
    database: str, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    """Where the process has died before the send, and where its re-run has been heard of when that is noticed."""
    letter = letter_of(queue, lambda: tasks.fail.delay("out of stock"))
    edits: dict[str, Any] = {"args": ["in stock"], "kwargs": {"password": "hunter2"}, "force": True}
    (interrupt_late if late else interrupt)(letter, monkeypatch, **edits)
    if late:
        heard_of(letter)
    two_minutes_later()
    finish_interrupted()

    entry = AuditEntry.objects.get()
    assert entry.details == {
        "generation": 1,
        "args": ["in stock"],
        "kwargs": {"password": "[redacted]"},
        "force": True,
    }
    if not late:
        assert TaskRun.objects.get().args == ["in stock"]


def test_a_new_id_stays_the_one_that_was_given(
    database: str, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = letter_of(queue, lambda: tasks.add.apply_async((1, 2), expires=600), DeadLetterReason.EXPIRED)
    interrupt_late(letter, monkeypatch)
    two_minutes_later()
    finish_interrupted()

    first, second = (message["headers"] for message in queue.messages())
    assert (first["id"], first[own.PUBLICATION]) == (second["id"], second[own.PUBLICATION])
    letter.refresh_from_db()
    assert letter.requeued_as == first["id"]


def test_a_broker_that_is_still_away_is_tried_again_and_in_the_end_a_person_is_asked(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(letter, monkeypatch)
    monkeypatch.setattr(Publisher, "publish", _refuse)
    for tried in range(MAX_TRIES):
        letter.refresh_from_db()
        assert (letter.status, tried) == (LetterStatus.REQUEUED, tried)
        two_minutes_later()
        finish_interrupted()
    letter.refresh_from_db()
    assert (letter.status, AuditEntry.objects.get().outcome) == (LetterStatus.OPEN, UNKNOWN)

    monkeypatch.undo()
    assert requeue(letter).generation == 2  # what may have been sent was generation 1


def test_a_slow_process_that_fails_after_another_has_finished_its_work_takes_nothing_back(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Publisher.publish

    def be_overtaken(*_args: Any) -> NoReturn:
        monkeypatch.setattr(Publisher, "publish", published)
        two_minutes_later()
        finish_interrupted()
        _refuse()

    monkeypatch.setattr(Publisher, "publish", be_overtaken)
    with pytest.raises(NotRequeueable):
        requeue(letter)

    letter.refresh_from_db()
    assert (letter.status, len(queue)) == (LetterStatus.REQUEUED, 1)


def test_a_slow_process_that_confirms_what_another_has_finished_writes_it_down_once(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm = intents.confirm

    def be_late(*sent: Any) -> str:
        monkeypatch.setattr(intents, "confirm", confirm)
        two_minutes_later()
        finish_interrupted()
        return confirm(*sent)

    monkeypatch.setattr(intents, "confirm", be_late)
    assert requeue(letter).outcome == "sent"

    assert AuditEntry.objects.get().outcome == "sent"


def test_what_has_succeeded_after_all_is_not_opened_by_a_send_that_fails(
    letter: DeadLetter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_late(*_args: Any) -> NoReturn:
        succeed_late(letter)
        _refuse()

    monkeypatch.setattr(Publisher, "publish", be_late)
    with pytest.raises(NotRequeueable):
        requeue(letter)

    letter.refresh_from_db()
    assert letter.status == LetterStatus.RESOLVED


def test_of_what_has_succeeded_after_all_nobody_says_that_it_was_sent(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(letter, monkeypatch)
    succeed_late(letter)
    two_minutes_later()
    finish_interrupted()

    assert (len(queue), AuditEntry.objects.get().outcome) == (0, UNKNOWN)


def test_older_messages_are_refused_also_where_the_process_died_right_after_the_send(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(sending, "supersede", _die)
        with pytest.raises(KeyboardInterrupt):
            requeue(letter)
    heard_of(letter)
    two_minutes_later()
    finish_interrupted()

    assert journal.current().holder(own.superseded(letter.task_id, letter.publication, 0))


def test_a_new_id_of_which_nobody_knows_does_not_run_beside_the_next(
    database: str, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = letter_of(queue, lambda: tasks.add.apply_async((1, 2), expires=600), DeadLetterReason.EXPIRED)
    interrupt_late(letter, monkeypatch)
    first = queue.messages()[0]["headers"]
    with monkeypatch.context() as away:
        away.setattr(Publisher, "publish", _refuse)
        for _try in range(MAX_TRIES):
            two_minutes_later()
            finish_interrupted()
    letter.refresh_from_db()
    assert letter.status == LetterStatus.OPEN

    assert requeue(letter).task_id != first["id"]
    assert journal.current().holder(own.superseded(first["id"], first[own.PUBLICATION], 0))


def test_a_broker_that_did_not_answer_is_asked_again(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as uncertain:
        uncertain.setattr(Publisher, "publish", _lose_the_answer)
        with pytest.raises(NotRequeueable) as refusal:
            requeue(letter)
    assert refusal.value.code == "not_confirmed"
    with pytest.raises(AlreadyTaken):
        requeue(letter)
    two_minutes_later()
    finish_interrupted()

    assert queue.task_ids() == [letter.task_id]


def test_an_intent_whose_letter_is_gone_does_not_stop_the_others(
    database: str, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, waiting = (letter_of(queue, tasks.fail.delay) for _ in range(2))
    for letter in (gone, waiting):
        interrupt(letter, monkeypatch)
    DeadLetter.objects.filter(pk=gone.pk).delete()
    two_minutes_later()
    finish_interrupted()

    assert queue.task_ids() == [waiting.task_id]


def test_an_intent_whose_message_can_not_be_made_any_more_opens_its_letter(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(letter, monkeypatch)
    DeadLetter.objects.update(envelope=b"garbage")
    two_minutes_later()
    finish_interrupted()

    letter.refresh_from_db()
    assert letter.status == LetterStatus.OPEN
    assert AuditEntry.objects.get().outcome.startswith(UNKNOWN)


def test_what_has_been_heard_of_is_not_sent_again(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    result = tasks.fail.delay("twice")
    letter = eventually(lambda: DeadLetter.objects.get(task_id=result.id))
    interrupt_late(letter, monkeypatch)
    again = eventually(lambda: DeadLetter.objects.get(task_id=result.id, generation=1))
    two_minutes_later()
    finish_interrupted()

    letter.refresh_from_db()
    assert letter.status == LetterStatus.SUPERSEDED
    assert OutboxEntry.objects.get(kind=OutboxKind.REQUEUE).status == OutboxStatus.DONE
    assert (again.envelope, again.run.args) != (None, None)
