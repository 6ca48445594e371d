"""A requeue on RabbitMQ, which drops in silence what it can't route, and takes what nobody asks it to confirm."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import current_app
from django.utils import timezone
from kombu import Connection, Exchange, Queue

from django_taskops.exceptions import NotRequeueable
from django_taskops.models import DeadLetter
from django_taskops.projection import writer
from django_taskops.recovery import broker as module
from django_taskops.recovery import outbox, requeue
from django_taskops.states import DeadLetterReason, LetterStatus
from example_site.embedded import ServiceUnavailable
from example_site.embedded_rabbitmq import own_rabbitmq
from tests import tasks
from tests.events import Story
from tests.recovery.test_requeue import letter_of
from tests.services import unavailable
from tests.workers import BrokerQueue, publishing_to, queue_at

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
]


@pytest.fixture
def orders(queue: BrokerQueue) -> Queue:
    """Bound to a topic exchange, and unknown to this process' app."""
    return Queue(f"{queue.name}-orders", Exchange(f"{queue.name}-orders", "topic"), "orders.#")


@pytest.fixture
def letter(database: str, queue: BrokerQueue, orders: Queue) -> DeadLetter:
    return letter_of(queue, lambda: tasks.fail.apply_async(queue=orders, routing_key="orders.new"))


def test_one_that_no_queue_takes_is_not_sent(letter: DeadLetter, orders: Queue, queue: BrokerQueue) -> None:
    with Connection(queue.url) as connection:
        orders(connection.default_channel).delete()

    assert refusal_of(letter) == "not_sent"
    letter.refresh_from_db()
    assert letter.status == LetterStatus.OPEN


def test_one_that_had_expired_when_it_was_published_does_not_expire_again(database: str, queue: BrokerQueue) -> None:
    """RabbitMQ takes no message whose time to live is negative."""
    past = timezone.now() - timedelta(minutes=1)
    requeue(letter_of(queue, lambda: tasks.add.apply_async((1, 2), expires=past), DeadLetterReason.EXPIRED))

    (message,) = queue.messages()
    assert message["headers"]["expires"] is None


def test_one_whose_exchange_is_gone_is_not_sent(letter: DeadLetter, orders: Queue, queue: BrokerQueue) -> None:
    with Connection(queue.url) as connection:
        orders(connection.default_channel).delete()
        orders.exchange(connection.default_channel).delete()

    assert refusal_of(letter) == "not_sent"
    letter.refresh_from_db()
    assert letter.status == LetterStatus.OPEN


def test_where_the_broker_hangs_before_it_confirms_nobody_knows(
    letter: DeadLetter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs when the connection stands, and the message has not gone out."""

    def hang(*_args: Any, **_kwargs: Any) -> None:
        beam.suspend()

    monkeypatch.setitem(module._OPTIONS[module.RABBITMQ], "read_timeout", 1)
    monkeypatch.setattr(module, "_missing", hang)
    try:
        with own_rabbitmq(tmp_path) as node, publishing_to(node.url):
            (beam,) = (child for child in psutil.Process(node.pid).children() if child.name() == "beam.smp")
            try:
                assert refusal_of(letter) == "not_confirmed"
            finally:
                beam.resume()
    except ServiceUnavailable as error:
        unavailable(str(error))


def refusal_of(letter: DeadLetter) -> str:
    with pytest.raises(NotRequeueable) as refusal:
        requeue(letter)
    return refusal.value.code


def test_a_queue_that_somebody_has_declared_in_another_way_is_used_as_it_is(
    letter: DeadLetter, queue: BrokerQueue
) -> None:
    theirs = declared(f"{queue.name}-theirs", queue.url, {"x-max-priority": 10})
    requeue(letter, queue=theirs.name)

    assert theirs.task_ids() == [letter.task_id]


def test_a_notice_goes_to_a_queue_as_its_reader_has_declared_it(database: str, queue: BrokerQueue) -> None:
    notices = declared(f"{queue.name}-dead", queue.url, {"x-queue-type": "quorum"})
    story = Story()
    writer.apply([story.published(envelope=None), story.failed(dead_letter_queue=notices.name)])

    assert outbox.carry_out() == 2
    assert notices.task_ids() == [story.task_id]


def declared(name: str, url: str, arguments: Mapping[str, Any]) -> BrokerQueue:
    with Connection(url) as connection:
        Queue(name, queue_arguments=dict(arguments), channel=connection.default_channel).declare()
    return queue_at(url, name)


def test_a_queue_that_is_not_there_is_declared_as_celery_would(
    letter: DeadLetter, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current_app.amqp.queues, "max_priority", 10)
    name = f"{queue.name}-new"
    requeue(letter, queue=name)
    later = tasks.add.apply_async((1, 2), queue=name)

    assert queue_at(queue.url, name).task_ids() == [letter.task_id, later.id]
