"""Sentry's Celery integration beside this app: it sees what it would see alone, whichever is initialised first."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from django_taskops.models import TaskRun
from tests import tasks
from tests.beside import tasks as beside
from tests.integration.test_lifecycle import ended
from tests.parking import tasks as parked
from tests.workers import Worker, WorkerStarter, eventually, new_queue

if TYPE_CHECKING:
    from celery.result import AsyncResult

Results = Mapping[str, "AsyncResult[Any]"]

Case = tuple[Callable[[], Any], tuple[str, str], Sequence[tuple[str, str]]]

# How it is called, how its run ends, and the exception and the function in each of its events.
CASES: dict[str, Case] = {
    "success": (lambda: tasks.add.delay(1, 2), ("SUCCESS", ""), []),
    "failure": (tasks.fail.delay, ("FAILURE", "failed"), [("Declined", "fail")]),
    "failure with a cause": (tasks.fail_with_cause.delay, ("FAILURE", "failed"), [("Declined", "fail_with_cause")]),
    "failure through a __call__": (
        beside.fail_despite_its_fallback.delay,
        ("FAILURE", "failed"),
        [("KeyError", "fail_despite_its_fallback")],
    ),
    "failure in a policy's last attempt": (
        lambda: tasks.tracked_broken_until_healed.delay(uuid4().hex),
        ("FAILURE", "exhausted"),
        [("Declined", "tracked_broken_until_healed")],
    ),
    "an expected exception": (tasks.fail_as_expected.delay, ("FAILURE", "non_retryable"), []),
    "retries, then success": (lambda: tasks.flaky.delay(uuid4().hex, 2), ("SUCCESS", ""), []),
    "retries used up": (
        lambda: tasks.flaky.delay(uuid4().hex, 9),
        ("FAILURE", "exhausted"),
        [("Declined", "_fail_at_first")],
    ),
    "manual retries used up": (
        lambda: tasks.retry_manually.delay(uuid4().hex, 9),
        ("FAILURE", "exhausted"),
        [("Declined", "retry_manually")],
    ),
    "soft limit": (
        tasks.soft_limit.delay,
        ("FAILURE", "soft_time_limit"),
        [("SoftTimeLimitExceeded", "soft_limit")],
    ),
    "hard limit": (tasks.hard_limit.delay, ("FAILURE", "time_limit"), []),
    "a failure that is parked": (
        lambda: parked.early.delay(uuid4().hex, "exception"),
        ("FAILURE", "non_retryable"),
        [("OutOfStock", "_raise_unexpected")],
    ),
    "child killed": (tasks.kill_self.delay, ("FAILURE", "worker_lost"), []),
}


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_sentry_sees_what_it_would_see_without_this_app(
    start_worker: WorkerStarter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three workers have the same to do; one of them does not record."""
    alone = start_watched(start_worker, tmp_path / "alone", "import", taskops={"TRACK": []})
    early = start_watched(start_worker, tmp_path / "early", "import")
    late = start_watched(start_worker, tmp_path / "late", "worker_init")
    published = {}
    for worker in (alone, early, late):
        monkeypatch.setenv("TASKOPS_TEST_QUEUE", worker.queue.name)
        published[worker.name] = {name: call() for name, (call, _, _) in CASES.items()}
    publishers = [beside.publish_another.apply_async(queue=worker.queue.name) for worker in (early, late)]

    for worker in (early, late):
        found = {name: told(ended(result, timeout=40)) for name, result in published[worker.name].items()}
        assert found == {name: (*end, int(end[0] == "FAILURE")) for name, (_, end, _) in CASES.items()}
    for publisher in publishers:
        assert_trace_is_that_of_the_message(ended(str(ended(publisher).result)))
    eventually(lambda: all(result.ready() for result in published[alone.name].values()), 40)
    start_worker.stop_all()

    expected = {name: list(events) for name, (_, _, events) in CASES.items()}
    for worker, path in ((alone, "alone"), (early, "early"), (late, "late")):
        assert by_case(tmp_path / path, published[worker.name]) == expected, path
    assert (
        stacks(tmp_path / "early", published[early.name])
        == stacks(tmp_path / "late", published[late.name])
        == stacks(tmp_path / "alone", published[alone.name])
    )
    assert unnamed(tmp_path / "early") == unnamed(tmp_path / "late") == unnamed(tmp_path / "alone")


def assert_trace_is_that_of_the_message(run: TaskRun) -> None:
    result: Any = run.result
    assert result["sentry-trace"].startswith(f"{run.trace_id}-")
    assert len(run.trace_id) == 32


def start_watched(start_worker: WorkerStarter, path: Path, init: str, **options: Any) -> Worker:
    path.touch()
    return start_worker(
        app="tests.beside.sentry_app",
        queue=new_queue(),
        extra_env={"BESIDE_INIT": init, "BESIDE_FILE": str(path)},
        **options,
    )


def told(run: TaskRun) -> tuple[str, str, int]:
    return run.state, run.reason, run.dead_letters.count()


def by_case(path: Path, published: Results) -> dict[str, list[tuple[str, str]]]:
    """What Sentry says of each task that it names: the exception that left it, and in which function of the project."""
    return {name: [(event["type"], _own(event)[-1]) for event in events] for name, events in named(path, published)}


def stacks(path: Path, published: Results) -> dict[str, list[tuple[str, list[str]]]]:
    """The exceptions of each task with all their frames, but for those of this package."""
    return {
        name: [
            (event["type"], [frame for frame in _frames(event) if not frame.startswith("django_taskops")])
            for event in events
        ]
        for name, events in named(path, published)
    }


def named(path: Path, published: Results) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Each case with the exceptions of the events that Sentry has for its task."""
    events = [event for event in events_in(path) if _task_id(event)]
    return [
        (name, [event["exception"]["values"][-1] for event in events if _task_id(event) == result.id])
        for name, result in published.items()
    ]


def unnamed(path: Path) -> Counter[str]:
    """What Sentry makes of the log of Celery's main process, where it knows of no task."""
    told = [event for event in events_in(path) if not _task_id(event)]
    return Counter(event["logentry"]["message"] for event in told if event["logger"].startswith("celery."))


def _frames(exception: Mapping[str, Any]) -> list[str]:
    return [f"{frame['module']}:{frame['function']}" for frame in exception["stacktrace"]["frames"]]


def _own(exception: Mapping[str, Any]) -> list[str]:
    frames = exception["stacktrace"]["frames"]
    return [frame["function"] for frame in frames if frame["module"].startswith("tests.")]


def events_in(path: Path) -> Iterable[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _task_id(event: Mapping[str, Any]) -> str | None:
    tags: Mapping[str, str] = event.get("tags") or {}
    return tags.get("celery_task_id")
