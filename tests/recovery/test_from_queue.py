"""What lies in a dead-letter queue goes back: ours by the decision on its letter, any other to where it came from."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery import current_app
from kombu import Connection, Exchange, Queue

from django_taskops.capture import headers as own
from django_taskops.exceptions import AlreadyTaken, NotRequeueable, TaskOpsError
from django_taskops.models import AuditEntry, DeadLetter, OutboxEntry, OutboxKind
from django_taskops.projection import writer
from django_taskops.recovery import discard, from_queue, outbox, requeue
from django_taskops.recovery.decide import Decided, person
from django_taskops.recovery.from_queue import look_into, put_back
from django_taskops.recovery.intents import Order
from django_taskops.recovery.message import Changes
from django_taskops.states import LetterStatus
from tests import tasks
from tests.events import Story
from tests.recovery.test_requeue import letter_of
from tests.workers import BrokerQueue, new_queue

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
]

ORDER = Order(
    changes=Changes.checked(attempts="once"), decided=Decided(by=person("li"), why="the supplier is back"), force=False
)


@pytest.fixture
def dead(broker: str) -> Iterator[BrokerQueue]:
    """A dead-letter queue."""
    own_queue = new_queue(broker)
    with Connection(broker) as connection:
        Queue(own_queue.name, channel=connection.default_channel).declare()
    yield own_queue
    own_queue.remove()


def noticed(queue: BrokerQueue, dead: BrokerQueue) -> DeadLetter:
    """A letter whose notice lies in `dead`."""
    letter = letter_of(queue, lambda: tasks.fail.delay("out of stock"))
    payload = {"run": letter.run_id, "publication": letter.publication, "generation": letter.generation}
    OutboxEntry.objects.create(
        kind=OutboxKind.DEAD_LETTER_QUEUE, key=uuid4().hex, payload={**payload, "queue": dead.name}
    )
    outbox.carry_out()
    return letter


def dead_lettered(message: dict[str, Any], dead: BrokerQueue) -> None:
    """The same message, without a notice of ours."""
    message["properties"]["delivery_info"] = {"exchange": "", "routing_key": dead.name}
    dead.put(message)


def outcomes(dead: BrokerQueue, **options: Any) -> dict[str, str]:
    """What has become of each message, in a word."""
    return {task_id: _word(outcome) for task_id, outcome in put_back(dead.name, ORDER, **options)}


def _word(outcome: Any) -> str:
    if isinstance(outcome, NotRequeueable):
        return outcome.code
    return type(outcome).__name__ if isinstance(outcome, TaskOpsError) else str(outcome.outcome)


def test_a_notice_says_what_died_of_what_and_where(database: str, queue: BrokerQueue, dead: BrokerQueue) -> None:
    letter = noticed(queue, dead)
    (message,) = dead.messages()
    told, (death,) = message["headers"]["taskops_dead_letter"], message["headers"]["taskops_death"]

    assert (told["task_id"], told["reason"], told["generation"]) == (letter.task_id, "failed", 0)
    assert told["link"] == f"/admin/taskops/deadletter/{letter.pk}/change/"
    assert (death["count"], death["reason"], death["queue"]) == (1, "failed", queue.name)


def test_a_notice_puts_its_letter_back_once_and_leaves_the_queue(
    database: str, queue: BrokerQueue, dead: BrokerQueue
) -> None:
    letter = noticed(queue, dead)
    assert outcomes(dead) == {letter.task_id: "sent"}

    (message,) = queue.messages()
    headers = message["headers"]
    assert (headers["id"], headers[own.GENERATION], headers[own.ATTEMPTS]) == (letter.task_id, 1, 1)
    assert "taskops_dead_letter" not in headers
    assert len(dead) == 0
    letter.refresh_from_db()
    assert letter.status == LetterStatus.REQUEUED
    assert AuditEntry.objects.get().user_name == "li"


def test_a_notice_whose_letter_was_decided_on_leaves_the_queue_without_a_send(
    database: str, queue: BrokerQueue, dead: BrokerQueue
) -> None:
    letter = noticed(queue, dead)
    discard(letter)

    assert outcomes(dead) == {letter.task_id: AlreadyTaken.__name__}
    assert (len(queue), len(dead)) == (0, 0)


def test_what_is_refused_stays_in_the_queue(database: str, queue: BrokerQueue, dead: BrokerQueue) -> None:
    letter = noticed(queue, dead)
    DeadLetter.objects.update(envelope=None, envelope_error="its message was never recorded")

    assert outcomes(dead) == {letter.task_id: "envelope_missing"}
    assert dead.task_ids() == [letter.task_id]


def test_a_message_that_another_has_put_there_goes_back_to_where_it_died(
    database: str, queue: BrokerQueue, dead: BrokerQueue
) -> None:
    """As RabbitMQ marks what it has dead-lettered by itself."""
    marks: dict[str, Any] = {"x-death": [{"queue": queue.name, "reason": "rejected"}]}
    marks["x-first-death-queue"] = queue.name
    result = tasks.add.apply_async((1, 2), queue=Queue(dead.name, Exchange(""), dead.name), headers=marks)
    assert outcomes(dead) == {result.id: "sent"}

    (message,) = queue.messages()
    assert message["headers"]["id"] == result.id
    assert message["headers"][own.GENERATION] == 1
    assert not {"x-death", "x-first-death-queue"} & set(message["headers"])
    assert len(dead) == 0
    entry = AuditEntry.objects.get()
    assert (entry.object_type, entry.task_id, entry.why) == ("message", result.id, "the supplier is back")


@pytest.mark.parametrize(
    ("publication", "seconds", "renewed"),
    [
        pytest.param("an hour ago", 600, 600, id="as long as it had"),
        pytest.param("an hour ago", -1, None, id="no expiry where it had no time"),
        pytest.param("unknown", 600, None, id="no expiry where nobody knows how long it had"),
    ],
)
def test_a_message_that_has_expired_where_it_lay_can_run(
    database: str, queue: BrokerQueue, dead: BrokerQueue, publication: str, seconds: int, renewed: int | None
) -> None:
    tasks.add.delay(1, 2)
    (message,) = queue.messages()
    queue.drop()
    published = datetime.now(UTC) - timedelta(hours=1)
    stamps = {"an hour ago": f"{int(published.timestamp() * 1e6):016x}{'0' * 16}", "unknown": None}
    expires = (published + timedelta(seconds=seconds)).isoformat()
    message["headers"] |= {"x-first-death-queue": queue.name, "expires": expires, own.PUBLICATION: stamps[publication]}
    dead_lettered(message, dead)
    assert list(outcomes(dead).values()) == ["sent"]

    (again,) = queue.messages()
    expires, expiration = again["headers"]["expires"], again["properties"].get("expiration")
    if renewed is None:
        assert (expires, expiration) == (None, None)
    else:
        assert timedelta(0) < datetime.fromisoformat(expires) - datetime.now(UTC) <= timedelta(seconds=renewed)
        assert 0 < int(expiration) <= renewed * 1000


def test_a_message_of_the_re_run_goes_back_whatever_became_of_the_letter(
    database: str, queue: BrokerQueue, dead: BrokerQueue
) -> None:
    """RabbitMQ dead-letters it without a word to anybody: no letter tells of it."""
    letter = letter_of(queue, lambda: tasks.fail.delay("out of stock"))
    requeue(letter)
    (message,) = queue.messages()
    queue.drop()
    message["headers"]["x-first-death-queue"] = queue.name
    dead_lettered(message, dead)

    assert look_into(dead.name) == [(letter.task_id, None)]
    assert outcomes(dead) == {letter.task_id: "sent"}
    (again,) = queue.messages()
    assert (again["headers"]["id"], again["headers"][own.GENERATION]) == (letter.task_id, 2)
    assert len(dead) == 0


def test_a_message_of_a_newer_publication_goes_back_whatever_became_of_the_letter(
    database: str, queue: BrokerQueue, dead: BrokerQueue
) -> None:
    letter = letter_of(queue, lambda: tasks.fail.delay("out of stock"))
    discard(letter)
    marks = {"x-first-death-queue": queue.name}
    where = Queue(dead.name, Exchange(""), dead.name)
    tasks.add.apply_async((1, 2), task_id=letter.task_id, queue=where, headers=marks)

    assert outcomes(dead) == {letter.task_id: "sent"}
    (message,) = queue.messages()
    assert message["headers"][own.PUBLICATION] != letter.publication
    assert len(dead) == 0


def test_the_very_message_of_a_letter_is_decided_on_like_the_letter(
    database: str, queue: BrokerQueue, dead: BrokerQueue
) -> None:
    """As RabbitMQ puts it there, or a project by hand: with no notice of ours."""
    result = tasks.fail.delay("out of stock")
    (message,) = queue.messages()
    letter = letter_of(queue, lambda: result)
    dead_lettered(message, dead)

    assert outcomes(dead) == {letter.task_id: "sent"}
    letter.refresh_from_db()
    assert letter.status == LetterStatus.REQUEUED
    dead_lettered(message, dead)
    assert outcomes(dead) == {letter.task_id: AlreadyTaken.__name__}
    assert (len(queue), len(dead)) == (1, 0)


def test_a_message_that_is_no_task_stays(database: str, queue: BrokerQueue, dead: BrokerQueue) -> None:
    with current_app.producer_or_acquire(None) as producer:
        producer.publish({"hello": "world"}, exchange="", routing_key=dead.name, serializer="json")

    assert outcomes(dead) == {"": "no_task"}
    assert len(dead) == 1


def test_what_is_refused_keeps_nothing_else_from_being_looked_at(
    database: str, queue: BrokerQueue, dead: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ would hand it out again at once."""
    monkeypatch.setattr(from_queue, "BATCH", 2)
    with current_app.producer_or_acquire(None) as producer:
        for _ in range(3):
            producer.publish({"hello": "world"}, exchange="", routing_key=dead.name, serializer="json")
    where, marks = Queue(dead.name, Exchange(""), dead.name), {"x-first-death-queue": queue.name}
    results = [tasks.add.apply_async((1, 2), queue=where, headers=marks) for _ in range(2)]

    decided = [(task_id, _word(outcome)) for task_id, outcome in put_back(dead.name, ORDER)]
    assert decided == [("", "no_task")] * 3 + [(result.id, "sent") for result in results]
    assert (len(queue), len(dead)) == (2, 3)


def test_no_more_than_asked_for_and_no_more_than_there_was(
    database: str, queue: BrokerQueue, dead: BrokerQueue
) -> None:
    letters = [noticed(queue, dead) for _ in range(3)]

    assert list(outcomes(dead, limit=2).values()) == ["sent", "sent"]
    assert dead.task_ids() == [letters[2].task_id]


def test_a_look_changes_nothing(database: str, queue: BrokerQueue, dead: BrokerQueue) -> None:
    letters = [noticed(queue, dead) for _ in range(2)]

    assert look_into(dead.name) == [(letter.task_id, letter.pk) for letter in letters]
    assert dead.task_ids() == [letter.task_id for letter in letters]


def test_a_notice_without_its_message_tells_all_the_same(database: str, queue: BrokerQueue, dead: BrokerQueue) -> None:
    story = Story()
    writer.apply([story.published(envelope=None), story.failed(dead_letter_queue=dead.name)])
    outbox.carry_out()

    assert look_into(dead.name) == [(story.task_id, DeadLetter.objects.get().pk)]
    assert outcomes(dead) == {story.task_id: "envelope_missing"}
