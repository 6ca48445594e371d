"""A result backend that does not answer: Celery then announces little, and never what the task raised."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import current_app

from django_taskops.models import DeadLetter
from tests import tasks
from tests.lifecycle.cases import found, run_of
from tests.lifecycle.tasks import NOBODY_LISTENS
from tests.servers import RedisServer, own_redis
from tests.workers import WorkerStarter, eventually

AT_ONCE = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "interval_max": 0}
DOWN: dict[str, Any] = {
    "result_backend": NOBODY_LISTENS,
    "result_backend_transport_options": {"retry_policy": AT_ONCE},
}
CASES: dict[str, Callable[[], Any]] = {
    "result backend down, it returns": lambda: tasks.add.delay(1, 2),
    "result backend down, an exception": tasks.fail.delay,
    "result backend down, hard time limit": tasks.hard_limit.delay,
    "result backend down, child killed": tasks.kill_self.delay,
    "result backend down, a name that no worker knows": lambda: current_app.send_task("tests.tasks.nowhere"),
}


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_what_happens_is_told_though_no_result_can_be_stored(start_worker: WorkerStarter) -> None:
    start_worker(celery=DOWN)
    published = {}
    for name, publish in CASES.items():  # one after the other: Celery connects anew, and what has not been acknowledged
        published[name] = publish()  # by then would come again
        eventually(partial(found, published[name], name), timeout=60)
    (attempt,) = run_of(published["result backend down, an exception"]).attempts.all()
    assert attempt.exception_type == "tests.tasks.Declined"


@pytest.fixture
def hanging_backend(tmp_path: Path) -> Iterator[RedisServer]:
    """Connections are accepted, and nothing is answered until it is resumed."""
    with own_redis(tmp_path / "results") as server:
        server.pause()
        yield server


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_what_has_ended_is_not_lost_where_its_process_is_killed_while_celery_stores_the_result(
    start_worker: WorkerStarter, hanging_backend: RedisServer
) -> None:
    worker = start_worker(celery={"result_backend": hanging_backend.url})
    returned, raised = tasks.add.delay(1, 2), tasks.fail.delay()
    eventually(lambda: run_of(returned).verdict == "returned" and run_of(raised).verdict == "failed")
    for child in worker.children():
        child.kill()
    hanging_backend.resume()

    eventually(lambda: worker.log_text().count("WorkerLostError") >= 2, timeout=30)
    after = tasks.add.delay(2, 2)  # what is told of the two before stands before its end
    eventually(lambda: run_of(after).verdict == "succeeded", timeout=30)
    assert [(run_of(each).state, run_of(each).reason) for each in (returned, raised)] == [
        ("SUCCESS", ""),
        ("FAILURE", "failed"),
    ]
    (letter,) = DeadLetter.objects.all()
    assert letter.task_id == raised.id
