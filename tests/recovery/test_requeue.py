"""One decision sends once, with everything the message had; what is refused says why."""

import socket
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event
from typing import Any, NoReturn
from uuid import uuid4

import pytest
from celery import Celery, chain, chord, current_app
from celery.app import app_or_default
from django.contrib.auth.models import User
from django.db import InterfaceError, connections, transaction
from kombu.utils import json
from pytest_django import Settings

from django_taskops import journal
from django_taskops.capture import headers as own
from django_taskops.capture.envelope import Envelope
from django_taskops.capture.text import storable
from django_taskops.events import EventKind
from django_taskops.exceptions import AlreadyTaken, NotRequeueable
from django_taskops.models import AuditEntry, DeadLetter, OutboxEntry, OutboxKind, OutboxStatus, TaskRun
from django_taskops.projection import writer
from django_taskops.recovery import broker as brokers
from django_taskops.recovery import discard, intents, preflight, requeue, restore
from django_taskops.recovery.broker import Publisher, Unconfirmed
from django_taskops.states import DeadLetterReason, LetterStatus, TaskState
from tests import tasks
from tests.events import Story
from tests.workers import BrokerQueue, Worker, eventually

pytestmark = pytest.mark.django_db(transaction=True)


def letter_of(queue: BrokerQueue, publish: Callable[[], Any], reason: str = DeadLetterReason.FAILED) -> DeadLetter:
    """The letter of a task that was really published, and whose death is told without a worker."""
    result = publish()
    queue.drop()
    run = TaskRun.objects.get(task_id=result.id)
    story = Story(result.id, run.task_name)
    story.publication = run.publication
    kind = EventKind.REVOKED if reason == DeadLetterReason.EXPIRED else EventKind.FAILED
    writer.apply([story.started(), story.ended(kind, reason=reason, exception_type="KeyError")])
    letter: DeadLetter = DeadLetter.objects.get(run=run)
    return letter


@pytest.fixture
def letter(database: str, queue: BrokerQueue) -> DeadLetter:
    return letter_of(queue, lambda: tasks.fail.delay("out of stock"))


def test_it_goes_out_under_its_id_as_the_next_generation_and_the_body_byte_for_byte(
    letter: DeadLetter, queue: BrokerQueue
) -> None:
    decision = requeue(letter, reason="the supplier is back")

    message = queue.messages()[0]
    original = Envelope.from_bytes(letter.envelope or b"")
    assert (decision.task_id, decision.generation, decision.outcome) == (letter.task_id, 1, "sent")
    assert b64decode(message["body"]) == original.body
    changed = {
        name
        for name in {*message["headers"], *original.headers}
        if message["headers"].get(name) != original.headers.get(name)
    }
    assert changed == {own.GENERATION, own.NONCE, own.DESCRIBE}
    run = TaskRun.objects.get()
    assert (run.state, run.generation, run.args) == (TaskState.PENDING, 1, ["out of stock"])
    letter.refresh_from_db()
    assert letter.status == LetterStatus.REQUEUED


def test_priority_headers_limits_links_and_the_rest_of_the_chain_go_along(database: str, queue: BrokerQueue) -> None:
    def publish() -> Any:
        options: dict[str, Any] = {
            "priority": 5,
            "headers": {"tenant": "north"},
            "time_limit": 30,
            "soft_time_limit": 20,
        }
        options |= {"link_error": [tasks.succeed.si()], "shadow": "shown as"}
        last: Any = chain(tasks.fail.s().set(**options), tasks.add.si(1, 2), tasks.add.s(3)).apply_async()
        return last.parent.parent

    letter = letter_of(queue, publish)
    requeue(letter)

    message = queue.messages()[0]
    _, _, embed = json.loads(b64decode(message["body"]))
    assert message["properties"]["priority"] == 5
    assert message["headers"]["tenant"] == "north"
    assert message["headers"]["timelimit"] == [30, 20]
    assert message["headers"]["shadow"] == "shown as"
    assert [step["task"] for step in embed["chain"]] == ["tests.tasks.add", "tests.tasks.add"]
    assert embed["errbacks"][0]["task"] == "tests.tasks.succeed"


@pytest.mark.parametrize("why", ["\x00", "\udcff", "x" * 3000])
def test_any_text_may_be_the_reason(letter: DeadLetter, queue: BrokerQueue, why: str) -> None:
    requeue(letter, reason=why)

    assert len(queue) == 1
    assert AuditEntry.objects.get().why == storable(why, 2000)


@pytest.mark.parametrize("decide", [requeue, discard, restore])
def test_a_letter_that_was_deleted_with_its_run_is_taken(letter: DeadLetter, decide: Any) -> None:
    DeadLetter.objects.all().delete()
    TaskRun.objects.all().delete()

    with pytest.raises(AlreadyTaken, match="gone"):
        decide(letter)


def test_who_when_and_why_are_written_down(letter: DeadLetter) -> None:
    user = User(pk=7, username="li")
    requeue(letter, by=user, reason="the supplier is back")

    entry = AuditEntry.objects.get()
    assert (entry.user_id, entry.user_name, entry.why) == ("7", "li", "the supplier is back")
    assert (entry.action, entry.object_id, entry.task_id, entry.outcome) == (
        "requeue",
        str(letter.pk),
        letter.task_id,
        "sent",
    )
    with pytest.raises(TypeError, match="expected a new audit entry"):
        entry.save()


def test_the_intent_is_committed_before_the_message_goes_out(
    letter: DeadLetter, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    seen: list[tuple[str, str]] = []

    def look(*args: Any) -> None:
        with ThreadPoolExecutor(1) as other_connection:
            seen.append(other_connection.submit(_look, database).result())

    monkeypatch.setattr(Publisher, "publish", look)
    requeue(letter)

    assert seen == [(LetterStatus.REQUEUED, OutboxStatus.PENDING)]
    assert OutboxEntry.objects.get(kind=OutboxKind.REQUEUE).status == OutboxStatus.DONE


def _look(database: str) -> tuple[str, str]:
    try:
        intent = OutboxEntry.objects.get(kind=OutboxKind.REQUEUE)
        return (DeadLetter.objects.get().status, intent.status)
    finally:
        connections[database].close()


@pytest.mark.mariadb
def test_of_two_people_at_once_one_sends(database: str, queue: BrokerQueue) -> None:
    """Some hundred rounds on two connections at a barrier."""
    rounds = 50 if database == "mariadb" else 200
    letters = [letter_of(queue, tasks.fail.delay) for _ in range(rounds)]
    barrier = Barrier(2)

    def person() -> list[str]:
        try:
            return [_attempt(letter.pk, barrier) for letter in letters]
        finally:
            connections[database].close()

    with ThreadPoolExecutor(2) as people:
        first, second = (people.submit(person) for _ in range(2))
        outcomes = [sorted(pair) for pair in zip(first.result(), second.result(), strict=True)]

    assert outcomes == [["AlreadyTaken", "sent"]] * rounds
    assert sorted(queue.task_ids()) == sorted(letter.task_id for letter in letters)
    assert OutboxEntry.objects.filter(kind=OutboxKind.REQUEUE, status=OutboxStatus.DONE).count() == rounds
    assert OutboxEntry.objects.filter(kind=OutboxKind.REQUEUE).count() == rounds
    assert AuditEntry.objects.count() == rounds


def _attempt(pk: int, barrier: Barrier) -> str:
    letter = DeadLetter.objects.get(pk=pk)
    barrier.wait(timeout=30)
    try:
        return requeue(letter).outcome
    except AlreadyTaken:
        return "AlreadyTaken"


@pytest.fixture
def broker_down() -> Iterator[None]:
    """This thread's app has its broker where nobody listens."""
    usual = app_or_default()
    Celery("down", broker="redis://127.0.0.1:1/0", set_as_current=False).set_current()
    yield
    usual.set_current()


def test_with_the_broker_down_the_letter_is_open_again_and_the_person_sees_why(
    letter: DeadLetter, queue: BrokerQueue, broker_down: None
) -> None:
    with pytest.raises(NotRequeueable, match=r"the letter is open again: .*(refused|Errno)") as refusal:
        requeue(letter, by="li")

    assert refusal.value.code == "not_sent"
    letter.refresh_from_db()
    assert (letter.status, letter.sent_generation) == (LetterStatus.OPEN, None)
    assert TaskRun.objects.get().state == TaskState.FAILURE
    intent = OutboxEntry.objects.get(kind=OutboxKind.REQUEUE)
    assert intent.status == OutboxStatus.FAILED
    assert AuditEntry.objects.get().outcome.startswith("not sent: ")


def test_a_broker_that_hangs_is_given_up_soon(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts the connection, and never answers."""
    seconds = 1.0
    monkeypatch.setitem(brokers._OPTIONS["redis"], "socket_timeout", seconds)
    usual = app_or_default()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        Celery("hung", broker=f"redis://127.0.0.1:{silent.getsockname()[1]}/0", set_as_current=False).set_current()
        try:
            started = time.monotonic()
            with pytest.raises(NotRequeueable) as refusal:
                requeue(letter)
        finally:
            usual.set_current()

    assert time.monotonic() - started < 6 * seconds
    assert refusal.value.code == "not_sent"
    letter.refresh_from_db()
    assert letter.status == LetterStatus.OPEN


def test_where_nobody_knows_whether_it_was_sent_nobody_sends_again_at_once(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as uncertain:
        uncertain.setattr(Publisher, "publish", _lose_the_answer)
        with pytest.raises(NotRequeueable) as refusal:
            requeue(letter)

    assert refusal.value.code == "not_confirmed"
    with pytest.raises(AlreadyTaken):
        requeue(letter)
    assert len(queue) == 0


def _lose_the_answer(*args: Any) -> NoReturn:
    raise Unconfirmed("no answer")


def test_a_database_that_goes_away_after_the_send_is_no_refusal(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr(intents, "settle", _lose_the_database)
        away.setattr(letter, "refresh_from_db", _lose_the_database)
        decision = requeue(letter)

    assert decision.outcome == "sent, not confirmed"
    assert letter.status == LetterStatus.REQUEUED
    assert len(queue) == 1


def _lose_the_database(*args: Any, **kwargs: Any) -> NoReturn:
    raise InterfaceError("connection already closed")


def test_without_autocommit_it_is_refused_like_inside_a_transaction(
    letter: DeadLetter, queue: BrokerQueue, database: str
) -> None:
    transaction.set_autocommit(False, using=database)
    try:
        assert refusal_of(letter).code == "in_transaction"
    finally:
        transaction.rollback(using=database)
        transaction.set_autocommit(True, using=database)
    assert len(queue) == 0


def test_a_task_that_the_broker_has_delivered_again_is_not_sent_besides(letter: DeadLetter, queue: BrokerQueue) -> None:
    again = Story(letter.task_id, letter.task_name)
    again.publication = letter.publication
    again.second = 10
    writer.apply([again.started()])
    letter.refresh_from_db()

    assert refusal_of(letter).code == "running"
    assert requeue(letter, force=True).outcome == "sent"


def test_a_restored_letter_whose_run_has_succeeded_meanwhile_is_resolved(letter: DeadLetter) -> None:
    discard(letter)
    again = Story(letter.task_id, letter.task_name)
    again.publication = letter.publication
    again.second = 10
    writer.apply([again.started(), again.succeeded()])

    assert restore(letter).outcome == LetterStatus.RESOLVED
    with pytest.raises(AlreadyTaken):
        requeue(letter)


def test_a_discard_outlives_a_writer_that_read_the_letter_before(letter: DeadLetter, database: str) -> None:
    """The writer holds the run's lock from before it reads the letter until it has written it."""
    read, decided = Event(), Event()

    def write_late() -> None:
        try:
            with transaction.atomic(using=database):
                TaskRun.objects.select_for_update().get(pk=letter.run_id)
                stale = DeadLetter.objects.get(pk=letter.pk)
                read.set()
                decided.wait(timeout=0.3)
                DeadLetter.objects.filter(pk=letter.pk).update(status=stale.status)
        finally:
            connections[database].close()

    with ThreadPoolExecutor(1) as other:
        late = other.submit(write_late)
        read.wait(timeout=30)
        discard(letter)
        decided.set()
        late.result()

    assert DeadLetter.objects.get(pk=letter.pk).status == LetterStatus.DISCARDED


def test_a_body_that_was_compressed_for_one_call_is_sent_whole(worker: Worker) -> None:
    key = uuid4().hex
    result = tasks.broken_until_healed.apply_async((key,), compression="gzip")
    letter = eventually(lambda: DeadLetter.objects.get(task_id=result.id))
    tasks.heal(key)
    requeue(letter)

    assert eventually(lambda: TaskRun.objects.get(task_id=result.id, state=TaskState.SUCCESS)).result == "healed"


def test_a_countdown_leaves_as_much_time_to_run_as_before(database: str, queue: BrokerQueue) -> None:
    letter = letter_of(queue, lambda: tasks.add.apply_async((1, 2), expires=600))
    requeue(letter, countdown=3600)

    headers = queue.messages()[0]["headers"]
    after = datetime.fromisoformat(headers["expires"]) - datetime.fromisoformat(headers["eta"])
    assert timedelta(seconds=590) < after < timedelta(seconds=610)


def test_people_are_told_what_a_requeue_sets_going(worker: Worker) -> None:
    result: Any = chord([tasks.succeed.si(), tasks.fail.si()])(tasks.collect.s())
    header = [member.id for member in result.parent.results]
    letter = eventually(lambda: DeadLetter.objects.get(task_id__in=header))

    assert eventually(lambda: [note for note in preflight.notes([letter])[letter.pk] if "a chord of 2" in note])


def test_a_letter_that_could_not_be_sent_can_be_sent_later(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr(Publisher, "publish", _refuse)
        with pytest.raises(NotRequeueable):
            requeue(letter)
    requeue(letter)

    assert queue.task_ids() == [letter.task_id]


def _refuse(*args: Any) -> NoReturn:
    raise ConnectionRefusedError("nobody listens")


def test_inside_a_transaction_it_is_refused_since_a_send_cannot_be_rolled_back(
    letter: DeadLetter, queue: BrokerQueue, database: str
) -> None:
    with transaction.atomic(using=database), pytest.raises(NotRequeueable) as refusal:
        requeue(letter)

    assert refusal.value.code == "in_transaction"
    assert len(queue) == 0


def test_a_letter_without_its_message_is_refused_with_the_reason(database: str, queue: BrokerQueue) -> None:
    story = Story()
    writer.apply([story.published(envelope=None), story.failed()])
    large = letter_of(queue, lambda: tasks.echo.apply_async(("x" * 300_000,)))

    assert refusal_of(DeadLetter.objects.get(task_id=story.task_id)).code == "envelope_missing"
    refused = refusal_of(large)
    assert refused.code == "payload_too_large"
    assert refused.detail.endswith("exceeds the limit of 262144")
    assert large.status == LetterStatus.OPEN


def test_an_envelope_that_cannot_be_read_is_refused_and_the_letter_stays_open(letter: DeadLetter) -> None:
    DeadLetter.objects.update(envelope=b"garbage")
    letter.refresh_from_db()

    assert refusal_of(letter).code == "envelope_unreadable"
    letter.refresh_from_db()
    assert letter.status == LetterStatus.OPEN


def refusal_of(letter: DeadLetter, **options: Any) -> NotRequeueable:
    with pytest.raises(NotRequeueable) as refusal:
        requeue(letter, **options)
    return refusal.value


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": "twice"},
        {"attempts": 0},
        {"attempts": True},
        {"countdown": -1},
        {"countdown": "soon"},
        {"countdown": float("inf")},
        {"args": "abc"},
        {"args": 5},
        {"kwargs": [1]},
        {"kwargs": {1: 2}},
        {"queue": ""},
        {"queue": 5},
        {"queue": "a\x00b"},
        {"queue": "\ud800"},
        {"args": [object()]},
    ],
)
def test_odd_options_are_refused(letter: DeadLetter, options: dict[str, Any]) -> None:
    assert refusal_of(letter, **options).code == "bad_option"


def test_an_expired_task_gets_a_new_id_and_as_much_time_as_it_had(database: str, queue: BrokerQueue) -> None:
    letter = letter_of(queue, lambda: tasks.add.apply_async((1, 2), expires=600), DeadLetterReason.EXPIRED)
    decision = requeue(letter)

    headers = queue.messages()[0]["headers"]
    renewed = datetime.fromisoformat(headers["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=590) < renewed <= timedelta(seconds=601)
    assert headers["id"] == headers["root_id"] == decision.task_id != letter.task_id
    letter.refresh_from_db()
    assert letter.requeued_as == decision.task_id
    assert TaskRun.objects.get(task_id=decision.task_id).requeued_from == letter.task_id


def test_a_task_whose_rerun_was_revoked_gets_a_new_id(letter: DeadLetter, queue: BrokerQueue) -> None:
    """Workers discard what they hear of under a revoked id, for hours."""
    requeue(letter)
    revoked = Story(letter.task_id, letter.task_name)
    revoked.publication, revoked.generation = letter.publication, 1
    writer.apply([revoked.ended(EventKind.REVOKED)])
    letter.refresh_from_db()
    assert [str(note) for note in preflight.notes([letter])[letter.pk]] == ["Gets a new task id."]

    decision = requeue(letter)

    assert decision.task_id != letter.task_id
    assert queue.messages()[-1]["headers"]["id"] == decision.task_id
    assert TaskRun.objects.get(task_id=decision.task_id).requeued_from == letter.task_id
    claimed = journal.current().holder(own.superseded(letter.task_id, letter.publication, 1))
    assert decision.task_id in claimed


def test_another_queue_a_delay_and_a_budget_of_starts(letter: DeadLetter, queue: BrokerQueue) -> None:
    requeue(letter, queue=f"{queue.name}-slow", countdown=60, attempts="once")

    headers = queue.messages()[0]["headers"]
    assert headers[own.ATTEMPTS] == 1
    assert datetime.fromisoformat(headers["eta"]) > datetime.now(UTC) + timedelta(seconds=50)
    run = TaskRun.objects.get()
    assert run.queue == f"{queue.name}-slow"
    assert run.eta is not None


def test_other_arguments_replace_the_original_ones_and_the_letter_keeps_those(
    letter: DeadLetter, queue: BrokerQueue
) -> None:
    before = bytes(letter.envelope or b"")
    requeue(letter, args=["A2"], kwargs={"password": "hunter2"}, force=True)  # its task takes no password

    args, kwargs, embed = json.loads(b64decode(queue.messages()[0]["body"]))
    assert (args, kwargs) == (["A2"], {"password": "hunter2"})
    assert set(embed) == {"callbacks", "errbacks", "chain", "chord"}
    run = TaskRun.objects.get()
    assert (run.args, run.kwargs) == (["A2"], {"password": "[redacted]"})
    letter.refresh_from_db()
    assert bytes(letter.envelope or b"") == before


def test_a_stale_letter_is_refused_unless_forced(letter: DeadLetter, queue: BrokerQueue, monkeypatch: Any) -> None:
    task: Any = current_app.tasks["tests.tasks.tracked_broken_until_healed"]
    monkeypatch.setattr(task, "taskops", type(task.taskops)(stale_after=60))
    stale = letter_of(queue, lambda: tasks.tracked_broken_until_healed.delay("x"))

    assert refusal_of(stale).code == "stale"
    assert requeue(stale, force=True).outcome == "sent"


def test_discarding_and_restoring_are_decisions_like_any_other(letter: DeadLetter, queue: BrokerQueue) -> None:
    discard(letter, by="li", reason="the order was cancelled")
    with pytest.raises(AlreadyTaken, match="expected status 'open', it is 'discarded' by now"):
        requeue(letter)
    with pytest.raises(AlreadyTaken):
        discard(letter)
    restore(letter, by="li")
    requeue(letter, by="li")

    assert list(AuditEntry.objects.order_by("pk").values_list("action", "outcome")) == [
        ("discard", "discarded"),
        ("restore", "open"),
        ("requeue", "sent"),
    ]
    assert len(queue) == 1


def test_it_runs_again_under_its_id_and_heals(worker: Worker) -> None:
    key = uuid4().hex
    result = tasks.broken_until_healed.delay(key)
    letter = eventually(lambda: DeadLetter.objects.get(task_id=result.id))
    tasks.heal(key)
    requeue(letter)

    eventually(lambda: DeadLetter.objects.get(pk=letter.pk).status == LetterStatus.RESOLVED)
    run = TaskRun.objects.get(task_id=result.id)
    assert (run.state, run.generation, run.starts(), tasks.calls(key)) == (TaskState.SUCCESS, 1, 2, 2)
    assert current_app.AsyncResult(result.id).get(timeout=10) == "healed"


def test_the_rest_of_the_chain_runs_after_the_failed_step_was_requeued(worker: Worker) -> None:
    key = uuid4().hex
    last: Any = chain(tasks.succeed.si(), tasks.broken_until_healed.si(key), tasks.echo.s()).apply_async()
    letter = eventually(lambda: DeadLetter.objects.get(task_id=last.parent.id))
    tasks.heal(key)
    requeue(letter)

    run = eventually(lambda: TaskRun.objects.get(task_id=last.id, state=TaskState.SUCCESS))
    assert run.args == ["healed"]


def test_a_requeue_that_dies_again_leaves_a_letter_that_points_back(worker: Worker) -> None:
    result = tasks.fail.delay()
    letter = eventually(lambda: DeadLetter.objects.get(task_id=result.id))
    requeue(letter)

    again = eventually(lambda: DeadLetter.objects.get(task_id=result.id, generation=1))
    assert again.previous_id == letter.pk
    assert requeue(again).generation == 2


@pytest.mark.parametrize(
    "task",
    [tasks.flaky, tasks.retry_manually, tasks.tracked_flaky, tasks.retry_through_a_narrow_override],
    ids=lambda task: task.name,
)
def test_a_budget_of_starts_holds_for_every_way_to_retry(worker: Worker, task: Any) -> None:
    key = uuid4().hex
    result = task.apply_async((key, 99), headers={own.ATTEMPTS: 1})
    letter = eventually(lambda: DeadLetter.objects.get(task_id=result.id), timeout=30)
    before = tasks.calls(key)
    requeue(letter, attempts=2)

    again = eventually(lambda: DeadLetter.objects.get(task_id=result.id, generation=1))
    assert (again.reason, tasks.calls(key) - before) == (DeadLetterReason.EXHAUSTED, 2)


def test_a_letter_of_an_id_that_was_published_anew_gets_an_id_of_its_own(
    database: str, queue: BrokerQueue, settings: Settings
) -> None:
    task_id = f"nightly {uuid4()}"
    letter = letter_of(queue, lambda: tasks.fail.apply_async(task_id=task_id))
    tasks.fail.apply_async(task_id=task_id)
    queue.drop()

    decision = requeue(letter)

    assert decision.task_id != task_id
    assert queue.task_ids() == [decision.task_id]
