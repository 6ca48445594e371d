"""Tasks that are parked when they fail for good: the result backend does not hear of it, so that whatever waits for the
task waits on: its chord, the rest of its chain, a blocked `get()`.

All else is Celery's as ever: acknowledgements, retries, hooks, signals, logs and events. The failure is on record
before it is withheld: one that can't be recorded goes out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from celery.local import Proxy

from . import lifecycle
from .options import parks

_asked: ContextVar[Callable[[BaseException], bool] | None] = ContextVar("taskops_parking", default=None)


def install(task: Any) -> None:
    """Puts itself between a task that parks and its result backend, once. In workers only, and before they fork."""
    if not parks(task) or type(task.backend) is Withholding:
        return
    given = task.backend
    shared = given is task.app.backend  # which is another one in each thread
    backend = Withholding(lambda: task.app.backend if shared else given)
    object.__setattr__(backend, "taskops_task", task)
    task.backend = backend


def backend_of(task: Any) -> Any:
    """The result backend of any task, to tell it what was withheld before."""
    backend = task.backend
    return backend._get_current_object() if type(backend) is Withholding else backend  # noqa: SLF001 its public way


@contextmanager
def asking(park: Callable[[BaseException], bool]) -> Iterator[None]:
    """In the worker's main process: meanwhile `park` decides on failures, not what this process knows of the task."""
    token = _asked.set(park)
    try:
        yield
    finally:
        _asked.reset(token)


class Withholding(Proxy):  # type: ignore[type-arg]  # at runtime it takes none
    """A result backend that is not told of failures."""

    __slots__ = ("taskops_task",)

    taskops_task: Any

    def mark_as_failure(
        self, task_id: str, exc: BaseException, traceback: Any = None, request: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if _is_parked(self.taskops_task, request, exc):
            return None
        return self._get_current_object().mark_as_failure(task_id, exc, traceback, request, *args, **kwargs)


def _is_parked(task: Any, request: Any, error: BaseException) -> bool:
    if request is None or getattr(request, "is_eager", False):
        return False
    park = _asked.get()
    return lifecycle.park(task, request, error) if park is None else park(error)
