"""Messages as the worker's main process finds them."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import celery
import pytest
from celery import Celery, current_app, shared_task
from kombu import Exchange, Queue

from django_taskops.capture import receivers, wrapper
from django_taskops.capture.message import queue_of
from django_taskops.models import TaskRun
from tests import tasks
from tests.workers import Worker, eventually

ORDERS = Exchange("orders", type="topic")


@pytest.mark.parametrize(
    ("exchange", "routing_key", "queue"),
    [
        ("orders", "orders.eu.new", "eu"),
        ("orders", "orders.us.new.today", "all"),
        ("orders", "invoices", "invoices"),
        ("unknown", "some.key", "some.key"),
        ("", "celery", "celery"),
    ],
)
def test_the_queue_of_a_message_is_that_which_its_exchange_is_bound_to(
    exchange: str, routing_key: str, queue: str
) -> None:
    app = Celery("topics", broker="memory://", set_as_current=False)
    app.conf.task_queues = [Queue("eu", ORDERS, "orders.eu.*"), Queue("all", ORDERS, "orders.#")]

    assert queue_of(app, exchange, routing_key) == queue


def test_a_message_of_protocol_1_is_recorded_and_says_why_it_cannot_be_sent_again(worker: Worker) -> None:
    task_id = str(uuid4())
    message = current_app.amqp.as_task_v1(task_id, "tests.tasks.fail", args=("as in Celery 3",), kwargs={})
    with current_app.producer_pool.acquire() as producer:
        producer.publish(message.body, routing_key=worker.queue.name, serializer="json", **message.properties)

    run = eventually(lambda: TaskRun.objects.get(task_id=task_id, state="FAILURE"))
    assert run.args == ["as in Celery 3"]
    assert run.dead_letters.get().envelope_error == "a message of protocol 1 can't be sent again"


def test_one_odd_task_does_not_cost_the_others_their_history() -> None:
    @shared_task(name="tests.usual")
    def usual() -> None: ...

    task: Any = current_app.tasks["tests.usual"]
    odd = SimpleNamespace(name="tests.odd")  # nothing that a task has
    receivers.worker_init(sender=SimpleNamespace(app=SimpleNamespace(tasks={"odd": odd, "usual": task})))

    assert wrapper.wrapped(task)


@pytest.mark.skipif(celery.VERSION < (5, 7), reason="older Celery calls it a failure itself")
def test_a_child_killed_after_its_success_was_stored_has_succeeded(worker: Worker) -> None:
    result = tasks.succeed_and_be_killed.delay()

    run = eventually(lambda: TaskRun.objects.get(task_id=result.id, state="SUCCESS"))
    assert not run.dead_letters.exists()
