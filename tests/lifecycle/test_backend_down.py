"""A result backend that does not answer: Celery then announces little, and never what the task raised."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from celery import current_app

from tests import tasks
from tests.lifecycle.cases import found, run_of
from tests.lifecycle.tasks import NOBODY_LISTENS
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
