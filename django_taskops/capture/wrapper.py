"""The outermost `run()` of each task: sees how the body really ended, before Celery touches the result backend."""

from functools import wraps
from typing import Any

from . import foretold, lifecycle
from .retry import guard
from .shield import shielded


def wrap(task: Any) -> None:
    """Wraps `task.run` and `task.retry`, once. A plain call of the task passes through."""
    if wrapped(task):
        return
    run = task.run

    @wraps(run)
    def outermost(*args: Any, **kwargs: Any) -> Any:
        lifecycle.refuse(task)
        span = _begin(task)
        if span is None:
            return run(*args, **kwargs)
        try:
            result = run(*args, **kwargs)
        except BaseException as error:
            span.raised = error
            foretold.watch(task, span)
            raise
        span.returned = True
        foretold.watch(task, span)
        return result

    task.run = outermost
    task.taskops_wrapped = True
    guard(task)


def wrapped(task: Any) -> bool:
    return "taskops_wrapped" in vars(task)


_begin = shielded(lifecycle.begin)
