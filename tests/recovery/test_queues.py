"""What waits in the queues of a real Redis and a real RabbitMQ, and what is said of brokers that do not answer."""

import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery import current_app
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from kombu import Connection
from pytest_django import Settings

from django_taskops.models import TaskRun
from django_taskops.recovery import queues, workers
from django_taskops.recovery.queues import QueueLook
from tests import tasks
from tests.factories import TaskRunFactory
from tests.recovery.beats import alive, silent
from tests.workers import BrokerQueue, WorkerStarter, broker_client, eventually, publishing_to

RABBITMQ = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("database", ["default"], indirect=True)
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def fresh_looks(declared_queues: None) -> Iterator[None]:
    queues.forget()
    yield
    queues.forget()


def look(name: str) -> QueueLook:
    (found,) = queues.look([name])
    return found


def test_messages_of_every_priority_are_counted(database: str, queue: BrokerQueue) -> None:
    for priority in (0, 3, 9):
        tasks.add.apply_async((1, 2), priority=priority)

    assert (look(queue.name).depth, look(queue.name).code) == (3, "")
    assert look(queue.name).consumers is None


def test_an_empty_queue_of_redis_is_empty(database: str, queue: BrokerQueue) -> None:
    assert look(queue.name).depth == 0


def test_other_names_do_not_count(database: str, queue: BrokerQueue) -> None:
    tasks.add.apply_async((1, 2), queue=f"{queue.name}-2")
    found = queues.look([queue.name, f"{queue.name}-2"])

    assert [(each.name, each.depth) for each in found] == [(queue.name, 0), (f"{queue.name}-2", 1)]


def test_the_prefix_of_all_keys_is_kept(database: str, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"{queue.name}:"
    monkeypatch.setitem(current_app.conf, "broker_transport_options", {"global_keyprefix": prefix})
    with broker_client() as client:
        client.lpush(f"{prefix}{queue.name}", "a message")
        client.hset(f"{prefix}unacked", "tag", "a message")
        try:
            assert look(queue.name).depth == 1
            assert queues.unacknowledged() == 1
        finally:
            client.delete(f"{prefix}{queue.name}", f"{prefix}unacked")


@RABBITMQ
@ON_POSTGRESQL
def test_rabbitmq_tells_messages_and_consumers(database: str, queue: BrokerQueue, start_worker: WorkerStarter) -> None:
    tasks.add.apply_async((1, 2), countdown=0, queue=f"{queue.name}-2")
    assert (look(f"{queue.name}-2").depth, look(f"{queue.name}-2").consumers) == (1, 0)
    start_worker()

    eventually(lambda: look(queue.name).consumers == 1)
    assert queues.unacknowledged() is None


@RABBITMQ
@ON_POSTGRESQL
def test_a_queue_that_rabbitmq_does_not_have_is_absent_and_stays_so(database: str, queue: BrokerQueue) -> None:
    tasks.add.delay(1, 2)
    names = [uuid4().hex, queue.name, uuid4().hex]
    for _time in range(2):
        found = queues.look(names)
        assert [(each.depth, each.code) for each in found] == [(None, "absent"), (1, ""), (None, "absent")]


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.alone
@pytest.mark.parametrize("address", ["redis://:{secret}@127.0.0.1:{port}/0", "amqp://u:{secret}@127.0.0.1:{port}//"])
@ON_POSTGRESQL
def test_a_broker_that_does_not_answer_costs_two_seconds_at_most(database: str, deaf: int, address: str) -> None:
    with publishing_to(address.format(secret=SECRET, port=deaf)):
        started = time.monotonic()
        found = queues.look(["a", "b"])
        took = time.monotonic() - started

    assert took < 2.5
    assert [(each.depth, each.code) for each in found] == [(None, "unreachable")] * 2
    assert found[0].error
    assert SECRET not in found[0].error


@pytest.mark.parametrize("address", ["redis://:{secret}@127.0.0.1:{port}/0", "amqp://u:{secret}@127.0.0.1:{port}//"])
@ON_POSTGRESQL
def test_a_broker_that_is_down_is_told_without_its_password(database: str, closed: int, address: str) -> None:
    with publishing_to(address.format(secret=SECRET, port=closed)):
        found = look("a")
        assert queues.unacknowledged() is None

    assert found.code == "unreachable"
    assert "refused" in found.error.lower()
    assert SECRET not in found.error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(f"no route to redis://me:{SECRET}@host/1"), "OSError: no route to redis://host/1"),
        (ValueError(f"Port could not be cast to integer value as '{SECRET}'"), "ValueError"),
    ],
)
@ON_POSTGRESQL
def test_no_error_tells_a_password(database: str, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(current_app, "connection_for_read", fail)

    assert look("a").error == told


@ON_POSTGRESQL
def test_other_brokers_are_not_asked(database: str) -> None:
    with publishing_to("memory://"):
        assert (look("a").depth, look("a").code) == (None, "unasked")
        assert queues.unacknowledged() is None


def test_nobody_is_asked_about_nothing(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current_app, "connection_for_read", None)
    with CaptureQueriesContext(connections[database]) as captured:
        assert queues.look([]) == []

    assert len(captured) == 0


def test_the_oldest_is_the_first_that_is_due(database: str, queue: BrokerQueue) -> None:
    now = timezone.now()
    TaskRunFactory(queue=queue.name, eta=now + timedelta(hours=1), published=now - timedelta(hours=5))
    TaskRunFactory(queue=queue.name, started=True, published=now - timedelta(hours=4))
    TaskRunFactory(queue=queue.name, published=now - timedelta(hours=3))
    TaskRunFactory(queue=queue.name, eta=now - timedelta(hours=2), published=now - timedelta(hours=6))
    TaskRunFactory(queue="another", published=now - timedelta(hours=9))
    first, other, none = queues.look([queue.name, "another", "empty"])

    assert first.oldest_at == now - timedelta(hours=3)
    assert other.oldest_at == now - timedelta(hours=9)
    assert none.oldest_at is None


def test_any_number_of_queues_costs_one_query_by_an_index(database: str, queue: BrokerQueue) -> None:
    TaskRunFactory.create_batch(5, queue=queue.name)
    TaskRun.objects.bulk_create([TaskRun(task_id=str(number), state="SUCCESS") for number in range(3000)])
    with connections[database].cursor() as cursor:
        vendor = connections[database].vendor
        if vendor != "mysql":  # where it commits
            cursor.execute("ANALYZE")  # what the planner knows of a table must not depend on the tests before
    with CaptureQueriesContext(connections[database]) as captured:
        queues.look([queue.name, *map(str, range(60))])

    (statement,) = [query["sql"] for query in captured]
    with connections[database].cursor() as cursor:
        if database == "default":
            cursor.execute("SET enable_seqscan = off")
            cursor.execute("SET enable_sort = off")
        explain = "EXPLAIN QUERY PLAN" if vendor == "sqlite" else "EXPLAIN"
        cursor.execute(f"{explain} {statement}")
        plan = str(cursor.fetchall())
        if database == "default":
            cursor.execute("RESET enable_seqscan")
            cursor.execute("RESET enable_sort")
    assert "taskops_run_not_success" in plan


def test_pages_ask_once_in_five_seconds(database: str, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [queue.name, f"{queue.name}-2"]
    assert [each.depth for each in queues.recent(names)] == [0, 0]
    tasks.add.delay(1, 2)
    with CaptureQueriesContext(connections[database]) as captured:
        assert [each.depth for each in queues.recent(names)] == [0, 0]
        assert [each.depth for each in queues.recent(names[:1])] == [0]
    assert len(captured) == 0

    later = time.monotonic() + queues.FRESH_SECONDS + 1
    monkeypatch.setattr("django_taskops.recovery.queues.time.monotonic", lambda: later)
    assert [each.depth for each in queues.recent(names)] == [1, 0]


@pytest.mark.alone
@ON_POSTGRESQL
def test_pages_leave_a_broker_alone_that_did_not_answer(database: str, deaf: int) -> None:
    with publishing_to(f"redis://127.0.0.1:{deaf}/0"):
        assert queues.recent(["a"])[0].code == "unreachable"
        started = time.monotonic()
        assert [each.code for each in queues.recent(["a", "b"])] == ["unreachable"] * 2
        assert time.monotonic() - started < 0.5


def test_known_are_the_queues_of_live_workers_of_this_app_and_of_runs_that_wait(database: str) -> None:
    alive(queues=["celery", "mail"])
    silent("b@shop", queues=["gone"])
    TaskRunFactory(queue="mistyped")
    TaskRunFactory(queue="")
    TaskRunFactory(queue="done", succeeded=True)
    declared: Any = current_app.amqp.queues

    assert queues.known_names(workers.seen()) == sorted({*declared, "celery", "mail", "mistyped"})


def test_a_look_changes_nothing(database: str, queue: BrokerQueue) -> None:
    with broker_client() as client:
        before = set(client.scan_iter())
        look(queue.name)
        assert set(client.scan_iter()) <= before


@RABBITMQ
@ON_POSTGRESQL
def test_a_look_declares_nothing(database: str, queue: BrokerQueue) -> None:
    look(queue.name)
    with Connection(queue.url) as connection:
        channel: Any = connection.channel()
        with pytest.raises(connection.channel_errors):
            channel.queue_declare(queue.name, passive=True)


def test_use_tz_off(database: str, queue: BrokerQueue, settings: Settings) -> None:
    settings.USE_TZ = False
    published = timezone.now() - timedelta(hours=3)
    TaskRunFactory(queue=queue.name, published=published)

    assert look(queue.name).oldest_at == published
