"""Redis is away, and the disk that the spool lies on takes nothing either."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from django_taskops.models import Recorder, TaskRun
from django_taskops.states import TaskState
from example_site.embedded import ServiceUnavailable
from tests import tasks
from tests.faults.accounts import ended, holds_within
from tests.servers import RedisServer, fill, own_disk, remount
from tests.services import unavailable
from tests.workers import WorkerStarter, eventually

pytestmark = [
    pytest.mark.parametrize("database", ["default"], indirect=True),
    pytest.mark.usefixtures("database", "journal_there"),
]

DISK_BYTES = 256 * 1024
TASKS = 20
WORDS_OF_A_TASK = 4
WORDS_OF_THE_WORKER = 2 * TASKS + 1  # start and success of each, and the start of the one that fails
WORDS_OF_THE_PUBLISHER = TASKS + 1
WORDS_OF_THE_MAIN_PROCESS = TASKS + 1  # that it has received each: counted where it had a file to count in
UNCONFIRMED = 2  # what each of them said last while Redis was there


@pytest.fixture
def disk(tmp_path: Path, journal_there: None, settings: Settings) -> Iterator[Path]:
    """A small one; the spool is on it."""
    try:
        with own_disk(tmp_path / "disk", DISK_BYTES) as mounted:
            settings.TASKOPS = {**settings.TASKOPS, "SPOOL_DIR": str(mounted / "spool")}
            yield mounted
    except ServiceUnavailable as error:
        unavailable(str(error))


def test_a_full_disk_costs_good_news_alone_which_is_counted(
    disk: Path, journal_redis: RedisServer, start_worker: WorkerStarter
) -> None:
    start_worker(concurrency=1)
    ended(tasks.add.delay(1, 2))
    journal_redis.stop()
    ballast = fill(disk)

    run_tasks_unharmed()
    assert not TaskRun.objects.filter(state=TaskState.SUCCESS, args__isnull=False).exclude(args=[1, 2]).exists()

    ballast.unlink()
    lost = WORDS_OF_THE_WORKER + WORDS_OF_THE_PUBLISHER
    tries = tasks_until_one_is_told()
    uncertain = UNCONFIRMED + WORDS_OF_THE_MAIN_PROCESS + WORDS_OF_A_TASK * (tries - 1)
    eventually(lambda: lost <= dropped() <= lost + uncertain, 15)


def test_a_read_only_disk_costs_good_news_alone(
    disk: Path, journal_redis: RedisServer, start_worker: WorkerStarter
) -> None:
    remount(disk, "ro")
    worker = start_worker()
    ended(tasks.add.delay(1, 2))
    journal_redis.stop()

    run_tasks_unharmed()
    worker.wait_for_log("what is no bad ending is dropped")


def run_tasks_unharmed() -> None:
    results = [tasks.add.delay(number, number) for number in range(TASKS)]
    failing = tasks.fail.delay()

    assert [result.get(timeout=20) for result in results] == [2 * number for number in range(TASKS)]
    run = ended(failing)
    assert (run.state, run.dead_letters.count()) == (TaskState.FAILURE, 1)


def tasks_until_one_is_told() -> int:
    """How many it took: for two seconds after a failure nobody tries the disk again."""
    for tries in range(1, TASKS):
        result = tasks.add.delay(1, 2)
        if holds_within(1, lambda: TaskRun.objects.filter(task_id=result.id, state=TaskState.SUCCESS).exists()):  # noqa: B023
            return tries
    pytest.fail("no task was told of")


def dropped() -> int:
    return sum(Recorder.objects.values_list("dropped", flat=True))
