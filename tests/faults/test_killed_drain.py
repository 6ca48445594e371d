"""The drainer dies by SIGKILL at the worst of times."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg
import pytest
from django.db import connections, transaction
from pytest_django import Settings

from django_taskops import journal
from django_taskops.models import OutboxEntry, OutboxKind, TaskRun
from django_taskops.projection.service import drain_once
from example_site.embedded import postgres_database
from tests import tasks
from tests.events import Story
from tests.faults import threaded_drain
from tests.faults.accounts import Shape, ended, wait_for_shapes
from tests.faults.processes import Process, python
from tests.faults.telling import tell
from tests.workers import WorkerStarter, eventually

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
    pytest.mark.usefixtures("database", "journal_there"),
]

STORIES = 30
LEASE_SECONDS = 5
LOCK_TIMEOUT_SECONDS = 5
FAILED: Shape = ("FAILURE", 0, 1, 1, 1)


@pytest.mark.parametrize("kind", ["redis", "spool"])
def test_what_was_applied_and_not_acknowledged_is_applied_once(
    kind: str, settings: Settings, tmp_path: Path, start_drain: Callable[..., Process]
) -> None:
    if kind == "spool":
        settings.TASKOPS = {**settings.TASKOPS, "JOURNAL": "spool"}
    with collecting():
        told, failed = tell(STORIES), fail(STORIES)
    with python(tmp_path / "dying.log", "-m", "tests.faults.dying_drain") as dying:
        assert dying.popen.wait(30) == -9, dying.log_text()
    assert TaskRun.objects.exists()
    assert waiting() >= 5 * len(told) + 3 * len(failed)

    start_drain()

    eventually(lambda: waiting() == 0, LEASE_SECONDS + 10, "the next drain to go on")
    wait_for_shapes(told)
    wait_for_shapes(failed, FAILED)
    assert OutboxEntry.objects.filter(kind=OutboxKind.DEAD_LETTERED).count() == len(failed)


def test_a_drain_killed_in_its_transaction_leaves_no_lock(start_drain: Callable[..., Process]) -> None:
    """It has locked the first run and waits for the second, which somebody else holds."""
    first, second = sorted(known(2), key=lambda story: TaskRun.objects.get(task_id=story.task_id).pk)
    for story in (first, second):
        append(story.started())
        append(story.succeeded())
    with transaction.atomic():
        TaskRun.objects.select_for_update().get(task_id=second.task_id)
        drain = start_drain()
        eventually(lambda: is_locked(first), 20)
        drain.kill()

        eventually(lambda: not is_locked(first), LOCK_TIMEOUT_SECONDS + 3, "the lock of the killed drain to be gone")
    start_drain()

    wait_for_shapes([first, second], ("SUCCESS", 0, 1, 0, 0), LEASE_SECONDS + 10)
    eventually(lambda: not open_transactions())


def test_a_child_forked_meanwhile_does_not_keep_the_transaction_of_its_killed_parent_open(tmp_path: Path) -> None:
    (story,) = known(1)
    append(story.started())
    with python(tmp_path / "forking.log", "-m", "tests.faults.forking_drain") as parent:
        child = psutil.Process(int(eventually(parent.log_text)))
        eventually(lambda: is_locked(story))
        parent.kill()

        eventually(lambda: not open_transactions(), 3, "the transaction to be over")
        assert child.status() == psutil.STATUS_SLEEPING


def test_a_worker_killed_while_it_drains_and_its_child_runs_a_long_task_leaves_no_lock(
    start_worker: WorkerStarter, start_drain: Callable[..., Process]
) -> None:
    """One that finds no way to start a drain drains in a thread. The child has been forked during the transaction."""
    key = uuid4().hex
    worker = start_worker(
        concurrency=1,
        arguments=["--max-tasks-per-child=1"],
        celery={"imports": [threaded_drain.__name__]},
        extra_env={threaded_drain.VARIABLE: key},
    )
    ended(tasks.add.delay(1, 2))
    threaded_drain.stick(key)
    late = [tasks.add.delay(1, 2)]
    eventually(lambda: tasks.calls(threaded_drain.stuck(key)))
    late.append(tasks.add.delay(1, 2))
    long = tasks.wait_for.delay(key)
    eventually(lambda: tasks.calls(f"started:{key}"))
    assert open_transactions()

    os.kill(worker.pid, signal.SIGKILL)

    eventually(lambda: not open_transactions(), 3, "the transaction to be over")
    start_drain()
    for result in late:
        assert ended(result, LEASE_SECONDS + 10).state == "SUCCESS"
    eventually(lambda: TaskRun.objects.get(task_id=long.id).state == "STARTED")


def fail(count: int) -> list[Story]:
    stories = [Story() for _ in range(count)]
    for story in stories:
        for event in (story.published(), story.started(), story.failed()):
            append(event)
    journal.flush()
    return stories


def known(count: int) -> list[Story]:
    """They have their rows, in this order."""
    stories = [Story() for _ in range(count)]
    for story in stories:
        append(story.published())
    journal.flush()
    drain_once(journal.sources(), 10)
    return stories


def append(event: Any) -> None:
    journal.current().append(event)


def waiting() -> int:
    return sum(source.backlog().entries for source in journal.sources())


@contextmanager
def collecting() -> Iterator[None]:
    """Somebody is going to collect the spool of this host."""
    spool = journal.sources()[-1]
    assert spool.hold()
    yield
    journal.flush()
    spool.release()


def is_locked(story: Story) -> bool:
    try:
        ask("SELECT 1 FROM taskops_taskrun WHERE task_id = %s FOR UPDATE NOWAIT", story.task_id)
    except psycopg.errors.LockNotAvailable:
        return True
    return False


def open_transactions() -> Sequence[Any]:
    """Those that hold locks on our rows, but for this process's own."""
    connections["default"].ensure_connection()
    return ask(
        "SELECT DISTINCT pid FROM pg_locks WHERE relation = 'taskops_taskrun'::regclass"
        " AND mode IN ('RowShareLock', 'RowExclusiveLock') AND pid <> %s",
        connections["default"].connection.info.backend_pid,
    )


def ask(question: str, *given: Any) -> Sequence[Any]:
    """In a connection of its own."""
    url = postgres_database(os.environ["DATABASE_URL"], str(connections["default"].settings_dict["NAME"]))
    with psycopg.connect(url) as connection:
        return connection.execute(question, given).fetchall()
