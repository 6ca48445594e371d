"""What must not make live workers look dead, and what the reaper says where events may be lost."""

import time
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from django_taskops.models import AuditEntry, DeadLetter, TaskRun, WorkerBeat
from tests import tasks
from tests.faults.accounts import ended, holds_within
from tests.faults.own_database import OwnDatabase
from tests.lifecycle.cases import key
from tests.servers import RedisServer
from tests.workers import Worker, WorkerStarter, eventually

pytestmark = [
    pytest.mark.parametrize("database", ["default"], indirect=True),
    pytest.mark.usefixtures("journal_there"),
]

QUICK = {"WORKER_TIMEOUT": 2}
OUTAGE_SECONDS = 6  # three times that
LOAD = 20  # tasks a second
SECONDS_TO_START = 5


def test_a_database_that_is_away_for_longer_than_the_timeout_makes_nobody_look_lost(
    own_database: OwnDatabase, start_worker: WorkerStarter
) -> None:
    own_database.migrate()
    workers = [start_worker(taskops=QUICK) for _ in range(2)]
    _reaper_is_at_work(workers)
    busy = [key() for _ in range(3)]
    running = [tasks.wait_for.delay(name) for name in busy]

    own_database.server.stop()
    _load(OUTAGE_SECONDS)
    own_database.server.start()
    connections["default"].close()  # the old one is dead
    results = _load(3 * QUICK["WORKER_TIMEOUT"])
    for name in busy:
        tasks.let_go(name)

    for result in (*running, *results[-5:]):
        eventually(lambda: TaskRun.objects.get(task_id=result.id).state == "SUCCESS", timeout=30)  # noqa: B023
    assert not AuditEntry.objects.exists()
    assert not DeadLetter.objects.exists()
    _a_killed_one_is_found(workers)


@pytest.mark.parametrize("trouble", ["stopped", "hung"])
def test_nor_does_a_redis_that_is_away(start_worker: WorkerStarter, journal_redis: RedisServer, trouble: str) -> None:
    workers = [start_worker(taskops=QUICK) for _ in range(2)]
    _reaper_is_at_work(workers)
    name = key()
    running = tasks.wait_for.delay(name)

    (journal_redis.stop if trouble == "stopped" else journal_redis.pause)()
    _load(OUTAGE_SECONDS)
    (journal_redis.start if trouble == "stopped" else journal_redis.resume)()
    _load(3 * QUICK["WORKER_TIMEOUT"])
    tasks.let_go(name)

    eventually(lambda: TaskRun.objects.get(task_id=running.id).state == "SUCCESS", timeout=30)
    assert not AuditEntry.objects.exists()
    assert not DeadLetter.objects.exists()
    _a_killed_one_is_found(workers)


def test_a_host_whose_drain_hangs_is_asked_whether_its_workers_live(
    start_worker: WorkerStarter, tmp_path: Path
) -> None:
    """Their beats lie in its spool, and with them the ends of what they ran."""
    here, there = (
        start_worker(taskops={**QUICK, "JOURNAL": "spool", "SPOOL_DIR": str(tmp_path / name)}) for name in "ab"
    )
    _reaper_is_at_work([here, there])
    names, results = _two_in_each()
    (drain,) = there.drains()
    drain.suspend()
    seen = WorkerBeat.objects.get(pid=here.pid).number
    eventually(lambda: WorkerBeat.objects.get(pid=here.pid).number > seen + 16, timeout=30)
    assert WorkerBeat.objects.get(pid=there.pid).number < WorkerBeat.objects.get(pid=here.pid).number
    assert not AuditEntry.objects.exists()
    drain.resume()
    for name in names:
        tasks.let_go(name)

    for result in results:
        eventually(lambda: TaskRun.objects.get(task_id=result.id).state == "SUCCESS", timeout=30)  # noqa: B023
    assert not DeadLetter.objects.exists()


def test_where_redis_was_restarted_an_end_may_have_been_lost_with_it(
    start_worker: WorkerStarter, journal_redis: RedisServer
) -> None:
    workers = [start_worker(taskops=QUICK) for _ in range(2)]
    _reaper_is_at_work(workers)
    done = tasks.add.delay(2, 2)
    eventually(lambda: TaskRun.objects.get(task_id=done.id).state == "SUCCESS")
    journal_redis.stop()
    journal_redis.start()
    seen = {beat.boot_id: beat.number for beat in WorkerBeat.objects.all()}
    eventually(lambda: all(beat.number > seen[beat.boot_id] + 3 for beat in WorkerBeat.objects.all()))
    TaskRun.objects.filter(task_id=done.id).update(state="STARTED", verdict="started", finished_at=None)

    eventually(lambda: TaskRun.objects.get(task_id=done.id).reason == "end_lost", timeout=30)
    description = DeadLetter.objects.get(task_id=done.id).description
    assert "lives and does not run it any more" in description
    assert "Redis was restarted meanwhile, so that its end may have been lost with it" in description


def _reaper_is_at_work(workers: list[Worker]) -> None:
    """A worker that died before the trouble is found: beats have come through for long enough."""
    ended(tasks.add.delay(1, 2))
    eventually(lambda: WorkerBeat.objects.filter(number__gt=8).count() == len(workers), timeout=30)


def _load(seconds: float) -> list[Any]:
    """Publishes at an even pace for as long as that."""
    published, started = [], time.monotonic()
    for number in range(int(seconds * LOAD)):
        published.append(tasks.add.delay(number, 1))
        time.sleep(max(0, started + number / LOAD - time.monotonic()))
    return published


def _two_in_each() -> tuple[list[str], list[Any]]:
    """Two tasks run in each of two workers. One may take more than it can run: then all are let go, and others come."""
    while True:
        names = [key() for _ in range(4)]
        results = [tasks.wait_for.delay(name) for name in names]
        started = TaskRun.objects.filter(task_id__in=[result.id for result in results], state="STARTED")
        if holds_within(SECONDS_TO_START, lambda: started.count() == len(results)):  # noqa: B023
            return names, results
        for name in names:
            tasks.let_go(name)
        for result in results:
            assert ended(result).state == "SUCCESS"


def _a_killed_one_is_found(workers: list[Worker]) -> None:
    """The reaper goes on judging afterwards."""
    names, results = _two_in_each()
    workers[0].kill()
    eventually(lambda: DeadLetter.objects.filter(reason="worker_lost").count() == 2, timeout=40)
    for name in names:
        tasks.let_go(name)
    for result in results:
        eventually(lambda: TaskRun.objects.get(task_id=result.id).ready, timeout=30)  # noqa: B023
    assert DeadLetter.objects.count() == 2
