"""What can be known of a message that may still be in the broker."""

import json
from collections.abc import Iterator

import pytest
from celery import current_app

from django_taskops.recovery.reaper import search
from django_taskops.recovery.reaper.search import RedisSearch, Seen, Sent
from tests import tasks
from tests.workers import BrokerQueue, broker_client, new_queue

NOBODY = Seen(held=frozenset(), queues=frozenset())


@pytest.fixture
def other(queue: BrokerQueue) -> Iterator[BrokerQueue]:
    found = new_queue()
    yield found
    found.remove()


def missing(*queues: BrokerQueue, seen: Seen = NOBODY) -> set[str]:
    """Of one lost message for each queue, named after its place."""
    sent = {str(place): Sent(queue=queue.name) for place, queue in enumerate(queues)}
    return RedisSearch(current_app).missing(sent, seen, 0)


def test_what_is_in_no_queue_and_with_nobody_is_missing(queue: BrokerQueue) -> None:
    waiting = tasks.add.delay(1, 2)
    sent = {waiting.id: Sent(queue=queue.name), "lost": Sent(queue=queue.name), "held": Sent(queue=queue.name)}
    seen = Seen(held=frozenset({"held"}), queues=frozenset())
    assert RedisSearch(current_app).missing(sent, seen, 0) == {"lost"}


def test_every_priority_is_looked_at(queue: BrokerQueue) -> None:
    results = [tasks.add.apply_async((1, 2), priority=priority) for priority in (0, 4, 9)]
    sent = {result.id: Sent(queue=queue.name) for result in results}
    assert RedisSearch(current_app).missing(sent, NOBODY, 0) == set()


def test_what_is_delivered_and_not_acknowledged_is_not_missing(queue: BrokerQueue) -> None:
    result = tasks.add.delay(1, 2)
    (message,) = queue.messages()
    queue.drop()
    with broker_client() as client:
        client.hset("unacked", "tag", json.dumps([message, "", queue.name]))
        assert RedisSearch(current_app).missing({result.id: Sent(queue=queue.name)}, NOBODY, 0) == set()
        client.hdel("unacked", "tag")
    assert RedisSearch(current_app).missing({result.id: Sent(queue=queue.name)}, NOBODY, 0) == {result.id}


def test_a_message_that_cannot_be_told_hides_what_was_sent_to_its_queue_alone(
    queue: BrokerQueue, other: BrokerQueue
) -> None:
    queue.put({"body": "gAR9", "content-type": "application/x-python-serialize", "headers": {}, "properties": {}})
    assert missing(queue, other) == {"1"}


def test_a_key_of_another_kind_hides_its_queue_alone(queue: BrokerQueue, other: BrokerQueue) -> None:
    with broker_client() as client:
        client.set(queue.name, "no list")
        assert missing(queue, other) == {"1"}
        client.delete(queue.name)


def test_a_queue_that_is_too_long_to_be_read_is_not_judged(
    queue: BrokerQueue, other: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broker_client() as client:
        client.delete("unacked")  # of workers that other tests have killed
    monkeypatch.setattr(search, "MAX_MESSAGES", 2)
    for number in range(3):
        tasks.add.delay(number, 1)
    assert missing(queue, other) == {"1"}
