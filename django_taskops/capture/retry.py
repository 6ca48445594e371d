"""The guard in front of `Task.retry`: refuses a retry that the budget, the deadline or the arguments rule out."""

import time
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

from celery.exceptions import MaxRetriesExceededError, Reject, Retry

from . import headers as own
from .lifecycle import span_of


def guarded_retry(self: Any, *args: Any, **kwargs: Any) -> Any:
    """`Task.retry` of a tracked task; stands in the class that Celery makes of the function."""
    return _retry(self, super(type(self), self).retry, *args, **kwargs)


def guard(task: Any) -> None:
    """Puts the guard in front of the `retry` of any other task, so that a requeue's budget holds there too."""
    if not hasattr(task, "taskops"):
        task.retry = partial(_retry, task, task.retry)


def _retry(
    task: Any,
    original: Callable[..., Any],
    args: Any = None,
    kwargs: Any = None,
    exc: Any = None,
    throw: bool = True,
    eta: Any = None,
    countdown: float | None = None,
    max_retries: int | None = None,
    **options: Any,
) -> Any:
    request = task.request
    if request.called_directly:
        return original(args, kwargs, exc, throw, eta, countdown, max_retries, **options)
    if isinstance(exc, TypeError) and not _binds(task.run, request.args, request.kwargs):
        raise exc
    granted = getattr(request, own.ATTEMPTS, None)
    if granted is not None:
        max_retries = granted - 1
    if _too_late(task, countdown or 0):
        _note_refusal(request)
        raise exc or MaxRetriesExceededError(f"retry_for of {task.name}[{request.id}] has passed")
    try:
        return original(args, kwargs, exc, throw, eta, countdown, max_retries, **options)
    except (Retry, Reject):
        raise
    except Exception:
        _note_refusal(request)
        raise


def _binds(run: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    try:
        signature(run).bind(*(args or ()), **(kwargs or {}))
    except TypeError:
        return False
    return True


def _too_late(task: Any, countdown: float) -> bool:
    """True where a retry would start after `retry_for`, counted from the publish or the last requeue."""
    retry_for = task.taskops.retry_for if hasattr(task, "taskops") else None
    sent = own.sent_at(vars(task.request))
    return retry_for is not None and sent is not None and time.time() + countdown > sent + retry_for


def _note_refusal(request: Any) -> None:
    if span := span_of(request):
        span.retry_refused = True
