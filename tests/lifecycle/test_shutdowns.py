"""Workers that end while a task runs."""

import signal
from functools import partial
from typing import Any

import celery
import pytest

from tests import tasks
from tests.lifecycle import tasks as more
from tests.lifecycle.cases import found, key
from tests.workers import BrokerQueue, Worker, WorkerStarter, eventually

pytestmark = pytest.mark.parametrize("database", ["default"], indirect=True)
since_5_5 = pytest.mark.skipif(celery.VERSION < (5, 5), reason="Celery announces what it cancels since 5.5")


def test_a_warm_shutdown_lets_it_finish_and_gives_the_rest_back(start_worker: WorkerStarter) -> None:
    worker = start_worker(concurrency=1)
    running, waiting = key(), key()
    first, second = tasks.wait_for.delay(running), tasks.wait_for.delay(waiting)
    eventually(lambda: tasks.calls(f"started:{running}"))
    worker.ask_to_stop()
    worker.wait_for_log("Warm shutdown")
    for waited in (running, waiting):
        tasks.let_go(waited)
    worker.process.wait(20)
    start_worker(concurrency=1)

    for result in (first, second):
        eventually(partial(found, result, "warm shutdown in the middle"))


@since_5_5
def test_a_soft_shutdown_that_gives_it_time_is_no_loss(start_worker: WorkerStarter) -> None:
    """Celery then says RETRY of a task that has succeeded."""
    worker = start_worker(celery={"worker_soft_shutdown_timeout": 4})
    started = key()
    result = tasks.wait_for.delay(started)
    eventually(lambda: tasks.calls(f"started:{started}"))
    _quit(worker)
    worker.wait_for_log("Initiating Soft Shutdown")
    tasks.let_go(started)
    worker.process.wait(30)
    start_worker()

    eventually(partial(found, result, "soft shutdown, and it ends in time"))


@since_5_5
def test_a_cold_shutdown_cancels_what_runs_and_a_late_one_comes_again(start_worker: WorkerStarter) -> None:
    worker = start_worker()
    early, late = key(), key()
    lost, again = tasks.wait_for.delay(early), more.wait_late.delay(late)
    for started in (early, late):
        eventually(partial(tasks.calls, f"started:{started}"))
    _quit(worker)
    worker.process.wait(30)
    tasks.let_go(late)
    start_worker()

    eventually(partial(found, again, "cold shutdown in the middle, `acks_late`"))
    eventually(partial(found, lost, "cold shutdown in the middle"))


def _quit(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGQUIT)


def test_a_memory_error_stops_its_worker_and_is_told(start_worker: WorkerStarter) -> None:
    start_worker()
    result = tasks.run_out_of_memory.delay()
    start_worker()  # drains what the first one leaves behind

    eventually(partial(found, result, "`MemoryError`"))


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (more.leave_by_sys_exit, "`sys.exit()` in a solo worker"),
        (more.fail_with_a_broken_hook, "an exception, and `on_failure` raises, in a solo worker"),
    ],
)
def test_a_task_that_ends_its_solo_worker_is_told(start_worker: WorkerStarter, task: Any, name: str) -> None:
    ending = start_worker(pool="solo")
    result = task.delay()
    ending.process.wait(20)
    start_worker(pool="solo")

    eventually(partial(found, result, name))


def test_a_message_that_comes_again_while_it_runs_is_one_success(
    start_worker: WorkerStarter, queue: BrokerQueue
) -> None:
    """As after the visibility timeout of Redis."""
    started = key()
    result = more.wait_late.delay(started)
    (message,) = queue.messages()
    start_worker(concurrency=2)
    eventually(lambda: tasks.calls(f"started:{started}") == 1)
    queue.put(message)
    eventually(lambda: tasks.calls(f"started:{started}") == 2)
    tasks.let_go(started)

    eventually(partial(found, result, "delivered again while the first delivery runs"))
