"""Messages as the worker's main process finds them."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import celery
import pytest
from celery import Celery, current_app, shared_task
from kombu import Exchange, Queue

from django_taskops.capture import receivers, wrapper
from django_taskops.capture.message import queue_of
from django_taskops.capture.request import _is_older
from django_taskops.models import TaskAttempt, TaskRun
from tests import tasks
from tests.workers import BrokerQueue, Worker, eventually

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


def test_a_child_killed_in_a_second_run_has_not_succeeded_because_the_first_had(
    worker: Worker, queue: BrokerQueue
) -> None:
    result = tasks.kill_self_the_second_time.apply_async((str(uuid4()),), queue=queue.name)
    (message,) = queue.messages()
    worker.queue.put(message)
    eventually(lambda: TaskRun.objects.get(task_id=result.id, state="SUCCESS"))
    worker.queue.put(message)

    killed = eventually(lambda: TaskAttempt.objects.get(run__task_id=result.id, verdict="worker_lost"))
    run = TaskRun.objects.get(task_id=result.id)
    assert (run.state, run.starts()) == ("SUCCESS", 2)
    assert run.delivery != killed.delivery
    assert not run.dead_letters.exclude(status="resolved").exists()


@pytest.mark.parametrize(
    ("done", "older"),
    [
        ("2026-01-01T11:59:59.999999+00:00", True),
        ("2026-01-01T13:59:59+02:00", True),
        ("2026-01-01T11:59:59", False),
        (datetime(2026, 1, 1, 11, 59), False),  # noqa: DTZ001 as SQLAlchemy's result backend says it
        (datetime(2026, 1, 1, 11, 59, tzinfo=UTC), True),
        ("2026-01-01T12:00:00.000001+00:00", False),
        ("yesterday", False),
        (None, False),
    ],
)
def test_a_result_is_older_than_a_delivery_only_where_its_backend_says_so(done: Any, *, older: bool) -> None:
    assert _is_older(done, datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()) is older
