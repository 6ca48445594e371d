"""What workers say of themselves."""

import os
import signal
from typing import Any

import pytest

from django_taskops.models import TaskRun, WorkerBeat
from tests import tasks
from tests.lifecycle.cases import key
from tests.workers import Worker, WorkerStarter, eventually

pytestmark = pytest.mark.parametrize("database", ["default"], indirect=True)

QUICK = {"WORKER_TIMEOUT": 2}  # a beat every half a second


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_worker_says_what_it_is_and_what_it_holds(start_worker: WorkerStarter, pool: str) -> None:
    worker = start_worker(pool=pool, taskops={**QUICK, "VERSION": "7.1"})
    names = [key() for _ in range(3)]
    later = tasks.wait_for.apply_async(("never",), countdown=1000)
    waiting = [tasks.wait_for.delay(name) for name in names]
    beat = eventually(lambda: WorkerBeat.objects.filter(details__held=4).first(), message="a beat with four tasks")

    assert (beat.worker, beat.pid, beat.version, beat.seconds) == (worker.name, worker.pid, "7.1", 0.5)
    assert beat.pool in (pool, "thread")
    assert beat.details["concurrency"] == 2
    assert beat.details["queues"] == [worker.queue.name]
    eventually(lambda: tasks.wait_for.name in WorkerBeat.objects.get(pk=beat.pk).tasks)
    assert not any(name.startswith("celery.") for name in beat.tasks)
    running = {held[1] for held in beat.details["running"]}
    reserved = {held[1] for held in beat.details["reserved"]}
    assert len(running) == 2
    assert running | reserved == {later.id, *(result.id for result in waiting)}
    assert {held[2] for held in beat.details["running"]} == {tasks.wait_for.name}
    _is_the_delivery_of_its_run(beat.details["running"][0])
    for name in names:
        tasks.let_go(name)


def _is_the_delivery_of_its_run(held: list[str]) -> None:
    delivery, task_id, _name = held
    eventually(lambda: TaskRun.objects.get(task_id=task_id).delivery == delivery)


def test_a_solo_worker_that_is_busy_beats(start_worker: WorkerStarter) -> None:
    start_worker(pool="solo", taskops=QUICK)
    busy = key()
    result = tasks.wait_for.delay(busy)
    seen = eventually(lambda: WorkerBeat.objects.filter(details__running__0__1=result.id).first())
    eventually(lambda: WorkerBeat.objects.get().number >= seen.number + 4)
    assert WorkerBeat.objects.get().details["running"][0][1] == result.id
    tasks.let_go(busy)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT], ids=["warm", "cold"])
def test_its_last_beat_says_that_it_is_the_last(start_worker: WorkerStarter, how: signal.Signals) -> None:
    first = start_worker(taskops=QUICK)
    _beating(first)
    first.process.send_signal(how)
    first.process.wait(20)
    start_worker(taskops=QUICK)

    ended = eventually(lambda: WorkerBeat.objects.filter(pid=first.pid).exclude(stopped_at=None).first())
    assert ended.details["running"] == []
    eventually(lambda: tasks.wait_for.name in WorkerBeat.objects.get(pk=ended.pk).tasks)


def test_a_worker_is_its_boot(start_worker: WorkerStarter) -> None:
    """Two of one name, and both are known."""
    workers = [start_worker(taskops=QUICK) for _ in range(2)]
    eventually(lambda: WorkerBeat.objects.count() == 2)
    assert {beat.worker for beat in WorkerBeat.objects.all()} == {workers[0].name}
    assert {beat.pid for beat in WorkerBeat.objects.all()} == {worker.pid for worker in workers}


def test_children_do_not_beat(start_worker: WorkerStarter) -> None:
    worker = start_worker(taskops=QUICK)
    pids: set[Any] = {tasks.add.delay(1, 1).get(timeout=20) and _beating(worker).pid for _ in range(3)}
    os.kill(worker.children()[0].pid, signal.SIGTERM)
    eventually(lambda: len(worker.children()) == 2)
    seen = _beating(worker).number
    eventually(lambda: WorkerBeat.objects.get().number > seen + 2)
    assert pids == {worker.pid}
    assert WorkerBeat.objects.get().stopped_at is None


def _beating(worker: Worker) -> WorkerBeat:
    beat: WorkerBeat = eventually(lambda: WorkerBeat.objects.get(pid=worker.pid))
    return beat
