"""What projects do to their tasks, and what strikes in the middle of us: the task goes on as without this app."""

from typing import Any
from uuid import uuid4

import celery
import pytest

from django_taskops.capture import headers as own
from django_taskops.models import DeadLetter, TaskRun
from django_taskops.recovery import requeue
from django_taskops.states import TaskState
from tests import tasks
from tests.integration.test_lifecycle import ended
from tests.workers import Worker, WorkerStarter, eventually

CASES: dict[str, tuple[Any, str, str, int]] = {
    "a retry with fewer parameters": (
        lambda: tasks.retry_through_a_narrow_override.delay(uuid4().hex, 2),
        "SUCCESS",
        "",
        3,
    ),
    "a __call__ that answers for its body": (tasks.fail_with_fallback.delay, "SUCCESS", "", 1),
    "a __call__ that never runs its body": (tasks.never_reached.delay, "SUCCESS", "", 1),
    "a before_start that raises": (tasks.fail_before_its_start.delay, "FAILURE", "failed", 1),
    "a Request with other parameters": (
        tasks.kill_self_under_a_request_of_our_own.delay,
        "FAILURE",
        "worker_lost",
        1,
    ),
    "a request that is serialized": (tasks.look_at_its_request.delay, "SUCCESS", "", 1),
}


def test_odd_tasks_end_as_celery_says(worker: Worker) -> None:
    published = {name: case[0]() for name, case in CASES.items()}

    found, expected = {}, {}
    for name, (_, state, reason, starts) in CASES.items():
        run = ended(published[name], timeout=40)
        found[name] = (run.state, run.reason, run.starts(), run.dead_letters.count())
        expected[name] = (state, reason, starts, int(state == "FAILURE"))
    assert found == expected


def test_a_budget_of_one_start_is_forgotten_by_the_next_run_in_the_same_process(start_worker: WorkerStarter) -> None:
    """Celery keeps `max_retries` of a retry on the task, for all that follows."""
    start_worker(pool="solo")
    result = tasks.flaky.apply_async((uuid4().hex, 99))
    letter = eventually(lambda: DeadLetter.objects.get(task_id=result.id))
    for attempts in ("once", 6):
        requeue(letter, attempts=attempts)
        letter = eventually(lambda: DeadLetter.objects.get(task_id=result.id, status="open"))

    unrelated = ended(tasks.flaky.delay(uuid4().hex, 2))
    assert (unrelated.state, unrelated.starts()) == (TaskState.SUCCESS, 3)
    hopeless = ended(tasks.flaky.delay(uuid4().hex, 99))
    assert hopeless.starts() == 4


@pytest.mark.skipif(celery.VERSION < (5, 7), reason="retry_on_worker_lost came with Celery 5.7")
def test_a_killed_child_that_celery_retries_by_itself_is_no_death(worker: Worker) -> None:
    run = ended(tasks.kill_self_at_first.delay(uuid4().hex))

    assert (run.state, run.starts()) == (TaskState.SUCCESS, 2)
    assert not run.dead_letters.exists()
    assert [attempt.state for attempt in run.attempts.all()] == ["RETRY"]


def test_a_soft_limit_that_strikes_while_we_write_is_the_tasks(worker: Worker) -> None:
    slow = ended(tasks.report_progress_for_ever.delay())
    publishing = ended(tasks.publish_for_ever.delay(f"{worker.queue.name}-elsewhere"))

    assert (slow.state, slow.reason) == ("FAILURE", "soft_time_limit")
    assert (publishing.state, publishing.reason) == ("FAILURE", "soft_time_limit")


def test_a_task_that_publishes_its_own_id_anew_shows_what_became_of_the_second(worker: Worker) -> None:
    result = tasks.succeed.delay()
    first = ended(result)
    tasks.fail.apply_async(task_id=result.id, headers={own.PUBLICATION: first.publication})

    run = eventually(lambda: TaskRun.objects.get(task_id=result.id, state=TaskState.FAILURE))
    assert run.dead_letters.get().status == "open"
