"""Real workers: what a run tells beside its ending. How each one ends is shown in tests/lifecycle."""

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from django_taskops.models import TaskAttempt, TaskRun
from django_taskops.states import TaskState
from tests import tasks
from tests.workers import Worker, WorkerStarter, eventually, journal_holds

if TYPE_CHECKING:
    from celery.result import AsyncResult


def ended(result: "AsyncResult[Any] | str", timeout: float = 40) -> TaskRun:
    """Its run, once that has ended and all is known of it: its end may be known before its start is."""
    task_id = result if isinstance(result, str) else result.id
    eventually(lambda: TaskRun.objects.get(task_id=task_id).ready, timeout, f"{task_id} to end")
    eventually(lambda: not journal_holds(os.environ["TASKOPS_TEST_QUEUE"]), timeout, "the journal to be applied")
    run: TaskRun = TaskRun.objects.get(task_id=task_id)
    return run


def key() -> str:
    return uuid4().hex


def test_a_run_says_where_when_and_with_what_it_ran(worker: Worker) -> None:
    run = ended(tasks.echo.delay("A1", password="hunter2", nested={"api_key": "k", "n": 1}))

    assert run.args == ["A1"]
    assert run.kwargs == {"password": "[redacted]", "nested": {"api_key": "[redacted]", "n": 1}}
    assert "hunter2" not in str(run.result)
    assert (run.queue, run.worker, run.task_name) == (worker.queue.name, worker.name, "tests.tasks.echo")
    assert run.pid in {child.pid for child in worker.children()}
    assert run.enqueued_at is not None
    assert run.finished_at is not None
    assert run.enqueued_at <= run.finished_at
    assert run.publication
    assert run.root_id == run.task_id


def test_people_see_the_original_exception_with_its_cause_and_the_tasks_own_frames(worker: Worker) -> None:
    run = ended(tasks.fail_with_cause.delay())
    attempt = run.attempts.get()

    assert (run.exception_type, run.exception_message) == ("tests.tasks.Declined", "the order has no sku")
    assert "KeyError: 'sku'" in run.traceback
    assert "django_taskops" not in run.traceback
    assert attempt.frames == ["tests.tasks:fail_with_cause"]


def test_progress_is_told_while_it_runs(worker: Worker) -> None:
    run = ended(tasks.report_progress.delay(3))

    assert run.progress is not None
    assert (run.progress["current"], run.progress["percent"]) == (3, 100.0)


def test_each_waiting_retry_shows_when_it_is_due(worker: Worker) -> None:
    result = tasks.retry_later.delay(3600)
    attempt = eventually(lambda: TaskAttempt.objects.get(run__task_id=result.id, state=TaskState.RETRY))
    run = TaskRun.objects.get(task_id=result.id)

    assert run.state == TaskState.RETRY
    assert run.retry_at is not None
    assert attempt.retry_at is not None
    assert abs(run.retry_at - attempt.retry_at) < timedelta(seconds=1)
    assert run.retry_at - attempt.started_at > timedelta(minutes=59)


def test_a_retry_with_other_arguments_shows_and_keeps_those(worker: Worker) -> None:
    result = tasks.retry_with_other_arguments.delay(2)

    run = eventually(lambda: TaskRun.objects.get(task_id=result.id, state=TaskState.SUCCESS, args=[0]))
    assert run.starts() == 3


def test_a_replaced_task_shows_what_replaced_it(worker: Worker) -> None:
    result = tasks.replace_by_add.delay(1, 2)
    run = eventually(lambda: TaskRun.objects.get(task_id=result.id, state="SUCCESS", task_name="tests.tasks.add"))

    assert run.result == 3
    assert eventually(lambda: run.attempts.get(reason="replaced")).state == "IGNORED"


def test_a_custom_id_used_again_shows_the_second_use_and_keeps_the_first(worker: Worker) -> None:
    task_id = f"order/7 {uuid4()}"
    first = ended(tasks.add.apply_async((1, 2), task_id=task_id))
    tasks.fail.apply_async(task_id=task_id)
    run = eventually(lambda: TaskRun.objects.get(task_id=task_id, state=TaskState.FAILURE))

    assert run.pk == first.pk
    assert run.publication > first.publication
    assert [attempt.state for attempt in run.attempts.all()] == ["SUCCESS", "FAILURE"]


def test_messages_of_publishers_without_this_app_are_recorded_whole(worker: Worker, settings: Any) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "TRACK": []}  # this process is such a publisher now
    result = tasks.fail.delay("told by the message alone")
    settings.TASKOPS = {**settings.TASKOPS, "TRACK": ["*"]}

    run = ended(result)
    assert (run.publication, run.args) == ("", ["told by the message alone"])
    assert run.dead_letters.get().envelope


@pytest.mark.parametrize("pool", ["solo", "threads"])
@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_other_pools_record_the_same(start_worker: WorkerStarter, pool: str) -> None:
    start_worker(pool=pool, concurrency=2)
    good, bad, retried = tasks.add.delay(1, 2), tasks.fail.delay(), tasks.flaky.delay(key(), 2)

    assert ended(good).state == TaskState.SUCCESS
    assert ended(bad).dead_letters.count() == 1
    assert (ended(retried).state, ended(retried).starts()) == (TaskState.SUCCESS, 3)


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_tasks_run_as_ever_while_the_recorder_fails_at_every_turn(start_worker: WorkerStarter) -> None:
    started = start_worker(extra_env={"TASKOPS_TEST_BROKEN_JOURNAL": "1"})

    assert tasks.add.delay(1, 2).get(timeout=20) == 3
    assert tasks.flaky.delay(key(), 2).get(timeout=20) == 3
    with pytest.raises(tasks.Declined):
        tasks.fail.delay().get(timeout=20)
    assert "failed; the task goes on" in started.log_text()


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_a_database_without_our_tables_is_no_harm(start_worker: WorkerStarter, tmp_path: Any) -> None:
    started = start_worker(extra_env={"TASKOPS_TEST_SQLITE": str(tmp_path / "empty.sqlite3")}, database="sqlite")

    assert tasks.add.delay(1, 2).get(timeout=20) == 3
    started.wait_for_log("no such table")
