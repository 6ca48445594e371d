"""What a requeue puts on the wire, field by field, beside what the publisher has put there."""

from base64 import b64decode
from typing import Any

import pytest
from celery import chain, chord, current_app, group
from celery.canvas import StampingVisitor  # type: ignore[attr-defined]
from kombu import Exchange, Queue
from kombu.utils import json

from django_taskops.capture import headers as own
from django_taskops.models import DeadLetter, TaskRun
from django_taskops.projection import writer
from django_taskops.recovery import requeue
from django_taskops.states import LetterStatus
from tests import tasks
from tests.events import Story
from tests.workers import BrokerQueue, queue_at

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
]

OURS = {own.GENERATION, own.NONCE, own.DESCRIBE}


class ByTenant(StampingVisitor):  # type: ignore[misc]  # celery-types has none
    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:  # noqa: ARG002 Celery's hook
        return {"tenant": "north", "stamped_headers": ["tenant"]}


def elaborate(**options: Any) -> Any:
    """A message with all that Celery knows to put on one."""
    named: dict[str, Any] = {
        "priority": 5,
        "headers": {"trace": "abc"},
        "time_limit": 30,
        "soft_time_limit": 20,
        "link": [tasks.succeed.si()],
        "link_error": [tasks.succeed.si()],
        "shadow": "shown as",
        "expires": 600,
        "reply_to": "replies",
        **options,
    }
    first = tasks.fail.s("out of stock").set(**named)
    canvas: Any = chain(first, tasks.add.si(1, 2), chord([tasks.succeed.si(), tasks.succeed.si()], tasks.collect.s()))
    canvas.stamp(ByTenant())
    return canvas


def dead_letters(queue: BrokerQueue, task_id: str) -> DeadLetter:
    run = TaskRun.objects.get(task_id=task_id)
    story = Story(task_id, run.task_name)
    story.publication = run.publication
    writer.apply([story.started(), story.failed()])
    letter: DeadLetter = DeadLetter.objects.get(run=run)
    return letter


def sent_and_sent_again(queue: BrokerQueue, canvas: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The messages of a publish and of the requeue of its first task."""
    canvas.apply_async()
    (before,) = queue.messages()
    queue.drop()
    requeue(dead_letters(queue, before["headers"]["id"]))
    (after,) = queue.messages()
    return before, after


def test_every_field_of_an_elaborate_message_survives(database: str, queue: BrokerQueue) -> None:
    before, after = sent_and_sent_again(queue, elaborate())

    assert b64decode(after["body"]) == b64decode(before["body"])
    names = set(before["headers"]) | set(after["headers"])
    changed = {name for name in names if before["headers"].get(name) != after["headers"].get(name)}
    assert changed == OURS | {"expires"}
    assert after["headers"]["stamps"] == before["headers"]["stamps"]
    assert "tenant" in after["headers"]["stamps"]
    properties = [{**message["properties"], "delivery_tag": None} for message in (before, after)]
    was, now = (int(each.pop("expiration")) for each in properties)
    assert now == pytest.approx(was, abs=2000)  # milliseconds
    assert properties[0] == properties[1]
    assert (after["content-type"], after["content-encoding"]) == (before["content-type"], before["content-encoding"])


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_each_serializer_keeps_its_body_byte_for_byte(
    database: str, queue: BrokerQueue, serializer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set on the task, as a project does: what one call alone names, the worker tells."""
    monkeypatch.setattr(current_app.tasks[tasks.fail.name], "serializer", serializer)
    before, after = sent_and_sent_again(queue, tasks.fail.s("out of stock").set(serializer=serializer))

    assert b64decode(after["body"]) == b64decode(before["body"])
    assert after["content-type"] == before["content-type"]


def test_a_compressed_body_is_compressed_again(
    database: str, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current_app.tasks[tasks.fail.name], "compression", "gzip", raising=False)
    before, after = sent_and_sent_again(queue, tasks.fail.s("x" * 1000).set(compression="gzip"))

    assert before["headers"]["compression"] == after["headers"]["compression"]
    assert after["body"] == before["body"]


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_an_exchange_of_the_projects_own_routes_it_again(database: str, queue: BrokerQueue) -> None:
    orders = Queue(f"{queue.name}-orders", Exchange(f"{queue.name}-orders", "topic"), "orders.#")
    result = tasks.fail.apply_async(queue=orders, routing_key="orders.new", priority=3)
    waiting = queue_at(queue.url, orders.name)
    (before,) = waiting.messages()
    waiting.drop()
    requeue(dead_letters(queue, result.id))
    (after,) = waiting.messages()

    assert after["body"] == before["body"]
    assert after["properties"]["delivery_info"] == before["properties"]["delivery_info"]
    assert after["properties"]["priority"] == 3


def test_the_marks_of_brokers_and_of_earlier_deliveries_are_gone(database: str, queue: BrokerQueue) -> None:
    marks: dict[str, Any] = {"x-death": [{"queue": "q"}], "x-first-death-reason": "rejected", "x-delivery-count": 3}
    result = tasks.fail.apply_async(headers={**marks, "tenant": "north"}, countdown=60)
    queue.drop()
    requeue(dead_letters(queue, result.id))
    headers = queue.messages()[0]["headers"]

    assert not set(marks) & set(headers)
    assert (headers["tenant"], headers["eta"]) == ("north", None)


def test_a_member_of_a_group_keeps_its_place(database: str, queue: BrokerQueue) -> None:
    members: Any = group(tasks.fail.si(), tasks.succeed.si()).apply_async()
    before = {message["headers"]["id"]: message for message in queue.messages()}[members[0].id]
    queue.drop()
    letter = dead_letters(queue, members[0].id)
    requeue(letter)
    (after,) = queue.messages()

    for name in ("group", "group_index", "root_id", "parent_id"):
        assert after["headers"].get(name) == before["headers"].get(name)
    assert json.loads(b64decode(after["body"])) == json.loads(b64decode(before["body"]))
    letter.refresh_from_db()
    assert letter.status == LetterStatus.REQUEUED
