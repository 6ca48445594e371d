"""Whether all that happened is in the rows, once."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from django_taskops.events import Event
from django_taskops.models import QuarantinedEntry, TaskRun
from tests.events import Story
from tests.workers import POLL_SECONDS, eventually

if TYPE_CHECKING:
    from celery.result import AsyncResult

Shape = tuple[str, int, int, int, int]


def retried_once(story: Story | None = None) -> tuple[Story, Sequence[Event]]:
    """A task that fails, is retried and succeeds: what is applied twice would show in its attempts."""
    story = story or Story()
    told = [story.published(), story.started(), story.retried(), story.started(), story.succeeded()]
    return story, told


RETRIED_ONCE: Shape = ("SUCCESS", 1, 2, 1, 0)


def shape_of(task_id: str) -> Shape:
    """State, retries, starts, attempts and letters."""
    run = TaskRun.objects.get(task_id=task_id)
    return run.state, run.retries, run.starts(), run.attempts.count(), run.dead_letters.count()


def wait_for_shape(task_id: str, expected: Shape, timeout: float = 30) -> None:
    def told() -> bool:
        assert shape_of(task_id) == expected
        return True

    eventually(told, timeout, f"the row of {task_id}")


def wait_for_shapes(stories: Iterable[Story], expected: Shape = RETRIED_ONCE, timeout: float = 30) -> None:
    """Until each of them has its row, as if it had been told once."""
    deadline = time.monotonic() + timeout
    for story in stories:
        wait_for_shape(story.task_id, expected, max(0, deadline - time.monotonic()))
    assert not QuarantinedEntry.objects.exists()


def ended(result: "AsyncResult[Any]", timeout: float = 40) -> TaskRun:
    def run() -> TaskRun | None:
        found: TaskRun = TaskRun.objects.get(task_id=result.id)
        return found if found.ready else None

    return eventually(run, timeout, f"{result.id} to end")


def holds_within(seconds: float, predicate: Callable[[], object]) -> bool:
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
