"""Sends that nobody receives."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from celery import current_app
from kombu.exceptions import OperationalError

from django_taskops.models import AuditEntry, DeadLetter, TaskRun
from django_taskops.recovery import requeue
from django_taskops.states import LetterStatus
from tests import tasks
from tests.lifecycle import tasks as more
from tests.lifecycle.cases import found, key
from tests.servers import RedisServer, own_redis
from tests.workers import BrokerQueue, WorkerStarter, broker_client, eventually, new_queue, publishing_to, queue_at

if TYPE_CHECKING:
    from pathlib import Path

    from celery.result import AsyncResult

pytestmark = pytest.mark.parametrize("database", ["default"], indirect=True)
on_each_broker = pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
on_rabbitmq = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)

QUICK = {"WORKER_TIMEOUT": 2, "UNDELIVERED_AFTER": 3}


def start(start_worker: WorkerStarter, **options: Any) -> None:
    start_worker(taskops=QUICK, **options)


def undelivered(result: "AsyncResult[Any]") -> DeadLetter:
    eventually(lambda: TaskRun.objects.get(task_id=result.id).reason == "undelivered", timeout=60)
    letter: DeadLetter = DeadLetter.objects.get(task_id=result.id)
    assert (letter.reason, letter.status) == ("undelivered", LetterStatus.OPEN)
    run = letter.run
    assert (run.state, run.starts(), run.started_at) == ("FAILURE", 0, None)
    return letter


@pytest.fixture
def elsewhere(broker: str) -> Iterator[BrokerQueue]:
    """A queue that no worker reads."""
    queue = new_queue(broker)
    yield queue
    queue.remove()


@on_each_broker
def test_a_queue_that_was_purged(start_worker: WorkerStarter, queue: BrokerQueue) -> None:
    """Another worker reads the queue afterwards: it is empty, and the message is nowhere."""
    results = [tasks.add.delay(number, 1) for number in range(3)]
    eventually(lambda: len(queue) == 3)
    queue.drop()
    start(start_worker)

    letters = [undelivered(result) for result in results]
    assert found(results[0], "queue purged")
    assert f"sent to queue {queue.name}" in letters[0].description
    assert AuditEntry.objects.filter(action="reap", outcome="undelivered").count() == 3
    requeue(letters[0])
    assert results[0].get(timeout=20) == 1
    eventually(lambda: DeadLetter.objects.get(pk=letters[0].pk).status == LetterStatus.RESOLVED)


@on_each_broker
def test_what_waits_in_a_queue_that_nobody_reads_is_not_lost(
    start_worker: WorkerStarter, queue: BrokerQueue, elsewhere: BrokerQueue
) -> None:
    waiting = tasks.add.apply_async((1, 2), queue=elsewhere.name)
    lost = tasks.add.delay(3, 4)
    eventually(lambda: len(queue) == 1)
    queue.drop()
    start(start_worker)

    undelivered(lost)
    assert TaskRun.objects.get(task_id=waiting.id).state == "PENDING"
    assert len(elsewhere) == 1


@on_each_broker
def test_what_a_busy_worker_holds_is_not_lost(start_worker: WorkerStarter, queue: BrokerQueue) -> None:
    start(start_worker, concurrency=1)
    names = [key() for _ in range(3)]
    results = [tasks.wait_for.delay(name) for name in names]
    eventually(lambda: tasks.calls(f"started:{names[0]}"))
    lost = _purged(queue)
    undelivered(lost)
    for name in names:
        tasks.let_go(name)

    for result in results:
        assert result.get(timeout=20) in names
    assert DeadLetter.objects.count() == 1


def _purged(queue: BrokerQueue) -> "AsyncResult[Any]":
    """What was sent to a queue that is no more."""
    gone = queue_at(queue.url, f"{queue.name}-gone")
    result = tasks.add.apply_async((1, 2), queue=gone.name)
    eventually(lambda: len(gone) == 1)
    gone.remove()
    return result


@on_rabbitmq
def test_a_routing_key_that_leads_nowhere(start_worker: WorkerStarter, queue: BrokerQueue) -> None:
    start(start_worker)
    result = tasks.add.apply_async((1, 2), exchange=queue.name, routing_key="typo")
    undelivered(result)


@on_rabbitmq
def test_what_has_expired_in_the_broker(start_worker: WorkerStarter, queue: BrokerQueue) -> None:
    result = tasks.add.apply_async((1, 2), expires=1)
    eventually(lambda: len(queue) == 0, timeout=20)
    start(start_worker)

    eventually(lambda: TaskRun.objects.get(task_id=result.id).reason == "expired", timeout=30)
    assert found(result, "expired in RabbitMQ")


def test_a_retry_that_was_purged(start_worker: WorkerStarter, queue: BrokerQueue) -> None:
    start(start_worker)
    result = more.retry_into.delay(f"{queue.name}-gone")
    eventually(lambda: TaskRun.objects.get(task_id=result.id).state == "RETRY")
    broker_client().delete(f"{queue.name}-gone")

    eventually(lambda: TaskRun.objects.get(task_id=result.id).reason == "undelivered", timeout=60)
    run = TaskRun.objects.get(task_id=result.id)
    assert (run.state, run.retries, run.starts()) == ("FAILURE", 1, 1)


def test_a_redis_that_has_lost_its_data(start_worker: WorkerStarter, tmp_path: "Path", queue: BrokerQueue) -> None:
    with own_redis(tmp_path / "broker") as server, publishing_to(server.url):
        there = BrokerQueue(queue.name, server.url)
        result = tasks.add.delay(1, 2)
        eventually(lambda: len(there) == 1)
        _lose_everything(server)
        start(start_worker, queue=there)
        undelivered(result)


def _lose_everything(server: RedisServer) -> None:
    server.stop()
    server.start()


def test_a_publish_that_raised_is_none(start_worker: WorkerStarter, tmp_path: "Path") -> None:
    """Nothing was sent, its caller knows it, and nobody waits for it."""
    start(start_worker)
    with own_redis(tmp_path / "broker") as server, publishing_to(server.url):
        server.stop()
        with pytest.raises(OperationalError):
            tasks.add.apply_async((1, 2), retry=False)
    seen = tasks.add.delay(3, 4)
    assert seen.get(timeout=20) == 7
    eventually(lambda: TaskRun.objects.get(task_id=seen.id).state == "SUCCESS")
    assert TaskRun.objects.count() == 1
    assert current_app.conf.broker_url != server.url
