"""The guard in front of `Task.retry`: refuses a retry that the budget, the deadline or the arguments rule out."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from inspect import Parameter, signature
from typing import Any

from celery.exceptions import MaxRetriesExceededError, Reject, Retry

from . import headers as own
from .chords import held_again
from .span import span_of

_PARAMETERS = ("args", "kwargs", "exc", "throw", "eta", "countdown", "max_retries")


def guarded_retry(self: Any, *args: Any, **kwargs: Any) -> Any:
    """`Task.retry` of a tracked task; stands in the class that Celery makes of the function."""
    return _retry(self, super(type(self), self).retry, *args, **kwargs)


def guard(task: Any) -> None:
    """Puts the guard in front of the `retry` of any other task, so that a requeue's budget holds there too."""
    if not hasattr(task, "taskops"):
        task.retry = partial(_retry, task, task.retry)


def _retry(task: Any, original: Callable[..., Any], *positional: Any, **named: Any) -> Any:
    """Calls `original` as it was called: the project may have given it other parameters."""
    if task.request.called_directly:
        return original(*positional, **named)
    given = dict(zip(_PARAMETERS, positional, strict=False)) | named
    _refuse(task, given)
    before = vars(task).get("override_max_retries")
    try:
        with held_again(task.request):
            answer = original(*positional, **named | _granted(task, original, given))
    except Retry as sent:
        _note_sent(task, sent)
        raise
    except Reject:
        raise
    except Exception:
        _note_refusal(task)
        raise
    else:
        _note_sent(task, answer)
        return answer
    finally:
        _forget_grant(task, before)


def _refuse(task: Any, given: Mapping[str, Any]) -> None:
    """Raises what Celery raises for a retry that is refused, where we refuse one."""
    error = given.get("exc")
    if isinstance(error, TypeError) and not _binds(task):
        raise error
    starts = _starts(task)
    if (starts is not None and task.request.retries + 1 >= starts) or _too_late(task, given):
        _note_refusal(task)
        if isinstance(error, BaseException):
            raise error
        raise MaxRetriesExceededError(f"no retry is left for {task.name}[{task.request.id}]")


def _granted(task: Any, original: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, int]:
    """More retries than the task's own policy, where a requeue grants them and the project's `retry` has its own say
    neither in the call nor in its parameters."""
    starts = _starts(task)
    if starts is None or task.max_retries is None or starts - 1 <= task.max_retries or "max_retries" in given:
        return {}
    parameters = signature(original).parameters.values()
    takes_it = any(p.name == "max_retries" or p.kind is Parameter.VAR_KEYWORD for p in parameters)
    return {"max_retries": starts - 1} if takes_it else {}


def _starts(task: Any) -> int | None:
    """How many a requeue grants; None where none has a say."""
    return own.count(getattr(task.request, own.ATTEMPTS, None))


def _forget_grant(task: Any, before: int | None) -> None:
    """Celery keeps `max_retries` on the task, for all its later runs in this process."""
    if _starts(task) is None:
        return
    if before is None:
        vars(task).pop("override_max_retries", None)
    else:
        task.override_max_retries = before


def _binds(task: Any) -> bool:
    """Celery's own check of arguments, which knows decorators that change them. True where it does not check."""
    header = getattr(task, "__header__", None)
    if header is None or not task.typing:
        return True
    try:
        header(*(task.request.args or ()), **(task.request.kwargs or {}))
    except TypeError:
        return False
    return True


def _too_late(task: Any, given: Mapping[str, Any]) -> bool:
    """True where a retry would start after `retry_for`, counted from the publish or the last requeue."""
    retry_for = task.taskops.retry_for if hasattr(task, "taskops") else None
    sent = own.sent_at(vars(task.request))
    return retry_for is not None and sent is not None and time.time() + _wait(task, given) > sent + retry_for


def _wait(task: Any, given: Mapping[str, Any]) -> float:
    """Seconds until the retry, as `Task.retry` understands its parameters."""
    eta = given.get("eta")
    if isinstance(eta, datetime):
        return ((eta if eta.tzinfo else eta.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    countdown = given.get("countdown")
    return float((task.default_retry_delay if countdown is None else countdown) or 0)


def _note_sent(task: Any, answer: object) -> None:
    """Celery answers with a Retry, raised or not. An eager task sends nothing: its caller runs it again where it leaves
    by the Retry."""
    if isinstance(answer, Retry) and not task.request.is_eager and (span := span_of(task.request)):
        span.retry_sent = answer


def _note_refusal(task: Any) -> None:
    if span := span_of(task.request):
        span.retry_refused = True
