"""Workers on RabbitMQ: the rows are those that Redis leaves, and what RabbitMQ does by itself is told as it is."""

import os
import signal
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import current_app
from kombu import Exchange, Queue
from pytest_django import Settings

from django_taskops import journal
from django_taskops.journal.spool import collector
from django_taskops.models import DeadLetter, TaskRun
from django_taskops.recovery import requeue
from django_taskops.states import LetterStatus, TaskState
from tests import tasks
from tests.integration.test_lifecycle import ended
from tests.lifecycle.cases import CASES
from tests.workers import BrokerQueue, Worker, WorkerStarter, eventually

pytestmark = [
    pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
]

ENDINGS = (
    "it returns",
    "an exception, no retry policy",
    "autoretry, then it returns",
    "child killed",
    "`Reject`, `acks_late`",
    "revoked before it starts",
)
HIGHEST_PRIORITY = 10


@pytest.mark.parametrize("kind", ["auto", "spool"])
def test_endings_are_told_by_either_journal(start_worker: WorkerStarter, kind: str) -> None:
    """tests/lifecycle has all of them, by "auto": the streams in the Redis of the results."""
    start_worker(taskops={"JOURNAL": kind})
    cases = {name: CASES[name] for name in ENDINGS}
    published: dict[str, Any] = {name: case.publish() for name, case in cases.items()}
    for name, case in cases.items():
        if case.then:
            case.then(published[name])

    runs = {name: ended(published[name]) for name in cases}
    assert {name: (run.state, run.reason, run.starts(), run.dead_letters.exists()) for name, run in runs.items()} == {
        name: (case.state, case.reason, case.starts, case.letter) for name, case in cases.items()
    }


def test_a_run_says_where_and_with_what_it_ran(worker: Worker) -> None:
    assert "transport:   amqp://" in worker.log_text()
    run = ended(tasks.echo.delay("A1"))

    assert (run.queue, run.worker, run.args) == (worker.queue.name, worker.name, ["A1"])
    assert run.enqueued_at is not None
    assert run.pid in {child.pid for child in worker.children()}


def test_publisher_and_worker_of_one_host_share_a_spool(start_worker: WorkerStarter, settings: Settings) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "JOURNAL": "spool"}
    start_worker()
    journal.use(None)
    eventually(lambda: collector.holder(journal.spool_path()))
    run = ended(tasks.add.delay(1, 2))

    assert (run.state, run.starts()) == (TaskState.SUCCESS, 1)
    assert run.enqueued_at is not None
    assert list(journal.spool_path().glob("*.spool"))


def test_a_message_that_expires_in_the_queue_is_dropped_and_nobody_says_so(
    start_worker: WorkerStarter, queue: BrokerQueue
) -> None:
    expired = tasks.add.apply_async((1, 2), expires=0.2)
    eventually(lambda: len(queue) == 0)
    start_worker()
    later = ended(tasks.add.delay(1, 2))

    assert later.state == TaskState.SUCCESS
    assert TaskRun.objects.get(task_id=expired.id).state == TaskState.PENDING


def test_what_a_killed_worker_had_comes_again_at_once(start_worker: WorkerStarter) -> None:
    """Redis waits for its visibility timeout, an hour by default."""
    key = uuid4().hex
    worker = start_worker(celery={"task_acks_late": True})
    result = tasks.wait_for.delay(key)
    eventually(lambda: tasks.calls(f"started:{key}") == 1)
    eventually(lambda: TaskRun.objects.get(task_id=result.id).state == TaskState.STARTED)
    worker.kill()
    start_worker()
    eventually(lambda: tasks.calls(f"started:{key}") == 2)
    tasks.let_go(key)
    run = ended(result)

    assert (run.state, run.starts(), run.dead_letters.count()) == (TaskState.SUCCESS, 2, 0)


def test_a_child_born_while_our_threads_are_at_work_publishes_like_any_other(start_worker: WorkerStarter) -> None:
    worker = start_worker(concurrency=1, app="tests.integration.forking_app", taskops={"WORKER_TIMEOUT": 4})
    ended(tasks.add.delay(1, 2))
    os.kill(worker.pid, signal.SIGUSR2)
    worker.wait_for_log("exited with 'signal 9 (SIGKILL)'")
    run = ended(tasks.retry_manually.delay(uuid4().hex, 1))

    assert (run.state, run.starts()) == (TaskState.SUCCESS, 2)


def test_a_dead_letter_is_requeued_under_its_id_and_heals(worker: Worker) -> None:
    key = uuid4().hex
    result = tasks.broken_until_healed.delay(key)
    letter = letter_of(result)
    tasks.heal(key)
    requeue(letter)

    eventually(lambda: DeadLetter.objects.get(pk=letter.pk).status == LetterStatus.RESOLVED)
    run = TaskRun.objects.get(task_id=result.id)
    assert (run.state, run.generation, run.starts()) == (TaskState.SUCCESS, 1, 2)
    assert current_app.AsyncResult(result.id).get(timeout=10) == "healed"


def letter_of(result: Any) -> DeadLetter:
    found: DeadLetter = eventually(lambda: DeadLetter.objects.get(task_id=result.id, status=LetterStatus.OPEN))
    return found


@pytest.fixture
def declared() -> Iterator[Any]:
    """Called with a queue, makes it one that this process' app declares."""
    queues: Any = current_app.amqp.queues
    names: list[str] = []

    def declare(queue: Queue) -> None:
        names.append(queue.name)
        queues.add(queue)

    yield declare
    for name in names:
        del queues[name]


def test_a_priority_counts_and_is_kept_by_a_requeue(
    start_worker: WorkerStarter, queue: BrokerQueue, declared: Any
) -> None:
    declared(Queue(queue.name, Exchange(queue.name), queue.name, max_priority=HIGHEST_PRIORITY))
    usual, urgent = tasks.echo.apply_async(priority=1), tasks.fail.apply_async(priority=9)
    assert queue.task_ids() == [urgent.id, usual.id]
    worker = start_worker(celery={"task_queue_max_priority": HIGHEST_PRIORITY})
    letter = letter_of(urgent)
    assert [ended(result).priority for result in (usual, urgent)] == [1, 9]
    worker.kill()
    requeue(letter)

    (message,) = queue.messages()
    assert message["properties"]["priority"] == 9


def test_a_topic_exchange_is_used_again_by_a_requeue(
    start_worker: WorkerStarter, queue: BrokerQueue, declared: Any
) -> None:
    exchange, key = f"{queue.name}-orders", uuid4().hex
    topic = {"exchange": exchange, "exchange_type": "topic", "routing_key": "orders.#"}
    declared(Queue(queue.name, Exchange(exchange, "topic"), "orders.#"))
    start_worker(celery={"task_queues": {queue.name: topic}})
    result = tasks.broken_until_healed.apply_async((key,), routing_key="orders.eu.new")
    letter = letter_of(result)
    assert TaskRun.objects.get(task_id=result.id).queue == queue.name
    tasks.heal(key)
    requeue(letter)

    run = eventually(lambda: TaskRun.objects.get(task_id=result.id, state=TaskState.SUCCESS))
    assert (run.queue, run.starts()) == (queue.name, 2)
