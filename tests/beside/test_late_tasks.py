"""Tasks that are registered after this package has prepared the worker's tasks, or while the worker runs."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from celery import current_app

from django_taskops.models import TaskRun
from django_taskops.recovery import requeue
from tests import tasks
from tests.integration.test_lifecycle import ended
from tests.workers import Worker, WorkerStarter, eventually, new_queue

if TYPE_CHECKING:
    from celery.result import AsyncResult

RELOADED = "tests.beside.late_by_reload"
NAMES = {
    "prefork": ("by_worker_init", "by_reload"),
    "solo": ("by_worker_init", "by_worker_ready", "by_reload", "by_task"),
}
End = tuple[str, str, int, int]
Case = tuple[str, Mapping[str, Any], End]

# What it does, how it is published, and how its run ends: state, reason, starts and letters.
CASES: Mapping[str, Case] = {
    "success": ("succeed", {}, ("SUCCESS", "", 1, 0)),
    "failure": ("break until healed", {}, ("FAILURE", "failed", 1, 1)),
    "retries, then success": ("retry twice", {}, ("SUCCESS", "", 3, 0)),
    "retries used up": ("retry until healed", {}, ("FAILURE", "exhausted", 4, 1)),
    "expired": ("succeed", {"expires": 0.001}, ("REVOKED", "expired", 0, 1)),
}
OF_PREFORK: Mapping[str, Case] = {
    "soft limit": ("sleep", {"soft_time_limit": 1}, ("FAILURE", "soft_time_limit", 1, 1)),
    "hard limit": ("sleep", {"time_limit": 1}, ("FAILURE", "time_limit", 1, 1)),
    "child killed": ("be killed", {}, ("FAILURE", "worker_lost", 1, 1)),
}


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_late_tasks_are_recorded_like_others(start_worker: WorkerStarter) -> None:
    workers = {pool: start_late(start_worker, pool) for pool in NAMES}
    for worker in workers.values():
        ended(current_app.send_task("beside.register", queue=worker.queue.name))
        reload(worker)
    key = uuid4().hex
    published = {
        (pool, name, case): publish(workers[pool], name, cases_of(pool)[case], key)
        for pool, names in NAMES.items()
        for name in names
        for case in cases_of(pool)
    }

    runs = {where: ended(result, timeout=40) for where, result in published.items()}
    for (pool, name, case), run in runs.items():
        eventually(partial(told_as, run, cases_of(pool)[case][2]), message=f"{case} of {name} in {pool} to be told")

    for (_, _, case), run in runs.items():
        if case == "retries used up":
            requeue(run.dead_letters.get(), attempts="once")
            eventually(partial(told_as, run, ("FAILURE", "exhausted", 5, 2)), message="one more start")
    tasks.heal(key)
    for where, run in runs.items():
        if where[2] == "failure":
            assert_runs_again(run, message=f"{where} to heal")


def assert_runs_again(run: TaskRun, message: str) -> None:
    requeue(run.dead_letters.get(), force=True)  # the same call has succeeded in another worker since
    eventually(lambda: TaskRun.objects.get(pk=run.pk, state="SUCCESS"), message=message)


def start_late(start_worker: WorkerStarter, pool: str) -> Worker:
    return start_worker(
        app="tests.beside.late_app", pool=pool, queue=new_queue(), celery={"worker_pool_restarts": True}
    )


def cases_of(pool: str) -> Mapping[str, Case]:
    return {**CASES, **(OF_PREFORK if pool == "prefork" else {})}


def reload(worker: Worker) -> None:
    """Has the worker import a module and start its pool again, as Celery's guide does it."""
    answers = current_app.control.pool_restart(modules=[RELOADED], destination=[worker.name], reply=True, timeout=10)
    assert answers == [{worker.name: {"ok": "reload started"}}]


def publish(worker: Worker, name: str, case: Case, key: str) -> "AsyncResult[Any]":
    how, options, _ = case
    return current_app.send_task(f"beside.late.{name}", args=(how, key), queue=worker.queue.name, **options)


def told_as(run: TaskRun, end: End) -> bool:
    """A start may be told after the end."""
    run.refresh_from_db()
    assert (run.state, run.reason, run.starts(), run.dead_letters.count()) == end
    return True
