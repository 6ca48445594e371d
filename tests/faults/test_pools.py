"""Every pool of Celery's, and one whose children are replaced all the time, while the drain works."""

import os
from typing import Any

import psutil
import pytest
from django.db import connections

from django_taskops.models import QuarantinedEntry, TaskRun
from tests import tasks
from tests.faults import pooled_database
from tests.faults.accounts import Shape, wait_for_shape
from tests.workers import Worker, WorkerStarter, eventually

pytestmark = [
    pytest.mark.parametrize("database", ["default"], indirect=True),
    pytest.mark.usefixtures("journal_there"),
]

FORKS = 1000 if os.environ.get("TASKOPS_LONG_TESTS") else 30
SECONDS = FORKS
FEW = 10
SOME = FORKS // 10  # what the pool itself has open comes and goes
SUCCEEDED: Shape = ("SUCCESS", 0, 1, 0, 0)
FAILED: Shape = ("FAILURE", 0, 1, 1, 1)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_each_task_is_accounted_for(pool: str, start_worker: WorkerStarter) -> None:
    start_worker(pool=pool, concurrency=4)
    good, bad = run_adds(FEW), [tasks.fail.delay() for _ in range(FEW)]

    account_for(good)
    for result in bad:
        wait_for_shape(result.id, FAILED)
    assert set(TaskRun.objects.values_list("task_id", flat=True)) == {result.id for result in (*good, *bad)}


@pytest.mark.timeout(2 * SECONDS + 60)
@pytest.mark.parametrize("pooled", [False, True], ids=["", "OPTIONS[pool]"])
def test_children_replaced_all_the_time(pooled: bool, start_worker: WorkerStarter) -> None:  # noqa: FBT001
    worker = start_worker(
        arguments=["--max-tasks-per-child=1"],
        celery={"imports": [pooled_database.__name__]},
        extra_env={pooled_database.VARIABLE: "1"} if pooled else {},
    )
    account_for(run_adds(FEW))
    open_before, connected_before = psutil.Process(worker.pid).num_fds(), connections_to_the_database()

    account_for(run_adds(FORKS))

    assert len(processes_of(worker)) >= FORKS
    eventually(lambda: psutil.Process(worker.pid).num_fds() < open_before + SOME, 10, "no descriptor to be leaked")
    eventually(lambda: connections_to_the_database() < connected_before + SOME, 10, "no connection to be leaked")
    assert not QuarantinedEntry.objects.exists()


def run_adds(count: int) -> list[Any]:
    return [tasks.add.delay(number, number) for number in range(count)]


def account_for(results: list[Any]) -> None:
    """Each has its own answer, from Celery and in its row."""
    for number, result in enumerate(results):
        assert result.get(timeout=SECONDS) == 2 * number
    for number, result in enumerate(results):
        wait_for_shape(result.id, SUCCEEDED)
        assert TaskRun.objects.get(task_id=result.id).result == 2 * number


def processes_of(worker: Worker) -> set[int]:
    """The children that have run something."""
    return set(TaskRun.objects.filter(worker=worker.name).values_list("pid", flat=True))


def connections_to_the_database() -> int:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0])
