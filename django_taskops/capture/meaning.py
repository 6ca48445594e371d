"""What it means that a task has ended like this: the kind of its last event, and its outcome."""

from datetime import UTC, datetime, timedelta
from typing import Any

from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry
from kombu.exceptions import EncodeError

from ..conf import conf
from ..events import EventKind, Outcome
from ..states import DeadLetterReason, QuietReason
from .claims import Superseded
from .frames import outcome_of, qualified
from .options import parks
from .redaction import NOT_SHOWN, display, within
from .shield import is_soft_limit, shielded
from .span import Span
from .text import storable
from .worker import in_main_process

REPLACED = "Replaced by new task"


def verdict(task: Any, span: Span, left: BaseException) -> tuple[EventKind, Outcome] | None:
    """What the body's exception means; None where only the worker's main process or the broker can tell."""
    if isinstance(left, Retry):
        return EventKind.RETRIED, _retry(left)
    if isinstance(left, Superseded):
        return EventKind.IGNORED, Outcome(reason=QuietReason.DUPLICATE, exception_message=storable(left, 1000))
    if isinstance(left, Ignore):
        replaced = QuietReason.REPLACED if str(left) == REPLACED else ""
        return EventKind.IGNORED, Outcome(reason=replaced)
    if isinstance(left, Reject):
        requeue: bool = vars(left)["requeue"]
        if requeue and task.acks_late:
            return None  # the broker delivers it again
        return EventKind.REJECTED, outcome_of(_original(left), left=left, **_routing(task, span))
    if not isinstance(left, Exception):
        return _interruption(task, span, left)
    kind = EventKind.UNSERIALIZABLE if span.returned and isinstance(left, EncodeError) else EventKind.FAILED
    reason = "" if kind is EventKind.UNSERIALIZABLE else _reason(task, span, left)
    return kind, outcome_of(_original(left), left=left, reason=reason, **_routing(task, span))


def _interruption(task: Any, span: Span, left: BaseException) -> tuple[EventKind, Outcome] | None:
    """What a `sys.exit()` or the like means. Of a child the worker's main process tells what became of it; where the
    task runs in that process itself (solo, threads) nobody does, and a message that is acknowledged is gone."""
    if task.request.is_eager:
        return EventKind.FAILED, outcome_of(left, **_routing(task, span))
    if in_main_process() and not task.acks_late:
        return EventKind.WORKER_LOST, outcome_of(left, **_routing(task, span))
    return None


def _routing(task: Any, span: Span) -> dict[str, Any]:
    """What runs eagerly has its caller to tell, and fails as ever."""
    return routing(task) | ({"parked": False} if span.let_out or task.request.is_eager else {})


def routing(task: Any) -> dict[str, Any]:
    """What the task declares about its dead letters: the fields of an outcome that say so."""
    options = getattr(task, "taskops", None)
    if options is None:
        return {"dead_letter": conf.DEAD_LETTER == "all"}
    return {
        "dead_letter": options.dead_letter,
        "dead_letter_queue": options.dead_letter_queue or "",
        "parked": parks(task),
    }


def _reason(task: Any, span: Span, error: Exception) -> DeadLetterReason:
    if is_soft_limit(error):
        return DeadLetterReason.SOFT_TIME_LIMIT
    if span.retry_refused or isinstance(error, MaxRetriesExceededError):
        return DeadLetterReason.EXHAUSTED
    if isinstance(error, tuple(task.throws or ())) or _has_retry_policy(task):
        return DeadLetterReason.NON_RETRYABLE  # its policy covers other exceptions, or it would have tried again
    return DeadLetterReason.FAILED


def _has_retry_policy(task: Any) -> bool:
    return bool(getattr(task, "autoretry_for", ()))


def _original(error: Exception) -> BaseException:
    """A bare `self.retry()` ends in MaxRetriesExceededError, and one that the broker does not take in Reject: people
    need what stands behind it."""
    if isinstance(error, Reject):
        reason = vars(error)["reason"]
        return reason if isinstance(reason, BaseException) else error
    if isinstance(error, MaxRetriesExceededError) and error.__context__ is not None:
        return error.__context__
    return error


def success(task: Any, result: Any, *, shown: bool = True) -> Outcome:
    """A result that can't be displayed does not cost the task its ending. With `shown` False no code of its runs."""
    return (shown and _with_result(task, result)) or Outcome(result=NOT_SHOWN)


@shielded
def _with_result(task: Any, result: Any) -> Outcome:
    sensitive = task.taskops.sensitive if hasattr(task, "taskops") else ()
    return Outcome(result=within(display(result, sensitive), conf.RESULT_MAX_BYTES))


def _retry(retry: Retry) -> Outcome:
    retry_at = _due(retry.when)
    error: object = retry.exc
    if isinstance(error, BaseException):
        return outcome_of(error, retry_at=retry_at)
    return Outcome(exception_type=qualified(Retry), exception_message=storable(retry.message, 1000), retry_at=retry_at)


def _due(when: object) -> datetime | None:
    """Celery says when a retry is due in seconds or as a datetime; a naive one is UTC."""
    if isinstance(when, datetime):
        return when if when.tzinfo else when.replace(tzinfo=UTC)
    return datetime.now(UTC) + timedelta(seconds=when) if isinstance(when, (int, float)) else None
