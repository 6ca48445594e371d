"""A project's own Task and Request classes: each hook is called as often, and with the same, as without this app."""

from typing import Any

import pytest
from celery import current_app

from django_taskops.models import TaskRun
from tests.beside.hooked import hook_calls
from tests.integration.test_lifecycle import ended
from tests.workers import Worker, WorkerStarter, eventually, new_queue

# The task, its arguments, the options of its publish, and how its run ends.
CASES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], tuple[str, str]]] = {
    # What leaves no result comes first: when all others have ended, it has ended too.
    "ignored": ("behave", ("ignore",), {}, ("IGNORED", "")),
    "rejected": ("behave_late", ("reject_it",), {}, ("REJECTED", "rejected")),
    "success": ("behave", ("succeed",), {}, ("SUCCESS", "")),
    "success, acknowledged late": ("behave_late", ("succeed",), {}, ("SUCCESS", "")),
    "failure": ("behave", ("fail",), {}, ("FAILURE", "failed")),
    "failure, acknowledged late": ("behave_late", ("fail",), {}, ("FAILURE", "failed")),
    "arguments that do not bind": ("behave", ("succeed", 1, 2), {}, ("FAILURE", "failed")),
    "retries, then success": ("behave", ("try_again", 2), {}, ("SUCCESS", "")),
    "retries used up": ("behave", ("try_again", 9), {}, ("FAILURE", "exhausted")),
    "a policy's retries used up": ("behave_by_policy", ("fail",), {}, ("FAILURE", "exhausted")),
    "soft limit": ("behave", ("sleep",), {"soft_time_limit": 1}, ("FAILURE", "soft_time_limit")),
    "hard limit": ("behave", ("sleep",), {"time_limit": 1}, ("FAILURE", "time_limit")),
    "child killed": ("behave", ("be_killed", 1), {}, ("FAILURE", "worker_lost")),
    "child killed, message put back": ("behave_late", ("be_killed", 1), {}, ("SUCCESS", "")),
    "expired": ("behave", ("succeed",), {"expires": 0.001}, ("REVOKED", "expired")),
}
NO_RESULT = ("ignored", "rejected")


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_hooks_are_called_as_without_this_app(start_worker: WorkerStarter) -> None:
    alone = start_worker(app="tests.beside.hooked_app", queue=new_queue(), taskops={"TRACK": []})
    beside = start_worker(app="tests.beside.hooked_app", queue=new_queue())
    expected, published = publish(alone), publish(beside)

    runs = {name: ended(result, timeout=40) for name, result in published.items()}
    waited_for = [result for name, result in expected.items() if name not in NO_RESULT]
    eventually(lambda: all(result.ready() for result in waited_for), 40)
    start_worker.stop_all()

    assert {name: told(run) for name, run in runs.items()} == {
        name: (*end, int(end[0] == "FAILURE" or end[1] in ("rejected", "expired")))
        for name, (_, _, _, end) in CASES.items()
    }
    for name in CASES:
        assert sorted_calls(published[name].id) == sorted_calls(expected[name].id), name
    assert_hooks_were_called(published)


def publish(worker: Worker) -> dict[str, Any]:
    return {
        name: current_app.send_task(f"beside.{task}", args=args, queue=worker.queue.name, **options)
        for name, (task, args, options, _) in CASES.items()
    }


def told(run: TaskRun) -> tuple[str, str, int]:
    return run.state, run.reason, run.dead_letters.count()


def sorted_calls(task_id: str) -> list[list[Any]]:
    """Two processes write to one list, so that only the calls of each have an order."""
    return sorted(hook_calls(task_id), key=str)


def assert_hooks_were_called(published: dict[str, Any]) -> None:
    """Some of what Celery promises, so that the comparison compares something."""
    for name, hook in (
        ("success", "on_success"),
        ("success", "after_return"),
        ("retries, then success", "on_retry"),
        ("failure", "on_failure"),
        ("hard limit", "Request.on_timeout"),
        ("child killed", "Request.on_failure"),
        ("child killed, message put back", "Request.reject"),
    ):
        assert hook in [call[0] for call in hook_calls(published[name].id)], (name, hook)
