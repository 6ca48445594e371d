"""A drain runs on every host that needs one, for as long as its worker lives, and comes back when it is killed."""

import signal

import psutil
import pytest

from django_taskops import journal
from django_taskops.models import TaskRun
from django_taskops.recovery import keeper
from django_taskops.recovery.keeper import Keeper
from django_taskops.states import TaskState
from tests import tasks
from tests.workers import Worker, WorkerStarter, broker_client, eventually

pytestmark = pytest.mark.parametrize("database", ["default"], indirect=True)


def succeeded(task_id: str) -> bool:
    return TaskRun.objects.filter(task_id=task_id, state=TaskState.SUCCESS).exists()


def only_drain(worker: Worker) -> psutil.Process:
    (drain,) = eventually(worker.drains, message="a drain")
    return drain


def test_a_drain_that_is_killed_is_replaced_and_nothing_is_missing(start_worker: WorkerStarter) -> None:
    worker = start_worker()
    killed = only_drain(worker)
    first = tasks.add.delay(1, 2).id
    eventually(lambda: succeeded(first))

    killed.send_signal(signal.SIGKILL)
    second = tasks.add.delay(3, 4).id

    eventually(lambda: succeeded(second), timeout=30)
    assert only_drain(worker).pid != killed.pid


def test_a_drain_does_not_outlive_its_worker(start_worker: WorkerStarter) -> None:
    worker = start_worker()
    drain = only_drain(worker)

    worker.process.kill()

    eventually(lambda: not drain.is_running() or drain.status() == psutil.STATUS_ZOMBIE, message="the drain's end")


def test_of_two_workers_one_drains_and_the_other_takes_over(start_worker: WorkerStarter) -> None:
    first = start_worker()
    drain = only_drain(first)
    second = start_worker()
    task_id = tasks.add.delay(1, 2).id
    eventually(lambda: succeeded(task_id))
    assert first.drains() == [drain]
    assert second.drains() == []

    first.stop()

    only_drain(second)
    later = tasks.add.delay(3, 4).id
    eventually(lambda: succeeded(later), timeout=30)


def test_a_stopped_worker_gives_its_turn_back_at_once(start_worker: WorkerStarter) -> None:
    worker = start_worker()
    task_id = tasks.add.delay(1, 2).id
    eventually(lambda: succeeded(task_id))
    worker.stop()

    with broker_client() as client:
        assert not client.exists(f"{worker.queue.name}:{{0}}:lease")


def test_where_no_process_can_be_started_a_thread_drains(
    start_worker: WorkerStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start_worker(extra_env={"TASKOPS_TEST_NO_CHILD": "1"})
    task_id = tasks.add.delay(1, 2).id

    eventually(lambda: succeeded(task_id), timeout=30)
    assert worker.drains() == []


def test_without_a_journal_to_drain_there_is_nothing_to_keep(
    database: str, settings: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "sources", lambda: ())
    keeper.start()

    assert keeper._keepers == []


def test_a_drain_that_cannot_even_start_gives_way_to_the_thread(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "SECONDS_BETWEEN_LOOKS", 0.01)
    served: list[object] = []
    monkeypatch.setattr(keeper, "serve", lambda *arguments: served.append(arguments))

    class Waiting:
        name = "redis"

        def is_waiting(self) -> bool:
            return True

        def release(self) -> None:
            pass

    kept = Keeper([Waiting()], ["false"])  # type: ignore[list-item]
    kept.start()
    eventually(lambda: served)
    kept.stop()

    assert len(served) == 1
