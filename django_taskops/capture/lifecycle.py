"""From what happens to a delivery in the process that executes it, to events."""

import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from celery import current_app, states
from celery._state import get_current_task
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry, SoftTimeLimitExceeded
from kombu.exceptions import EncodeError

from .. import journal
from ..conf import conf
from ..events import Call, Event, EventKind, Executor, Outcome
from ..exceptions import EnvelopeError
from ..states import DeadLetterReason, QuietReason
from . import headers as own
from .call import describe, without_envelope
from .chords import canvas_of
from .downstream import tell_upstream_failed
from .frames import outcome_of, qualified
from .options import parks
from .redaction import display, within
from .shield import due, is_soft_limit, let_limit_through, shielded
from .text import storable, storable_id
from .worker import executor, in_main_process

T = TypeVar("T")

REPLACED = "Replaced by new task"
SECONDS_BETWEEN_PROGRESS = 1.0
SECONDS_TO_STRIKE_AGAIN = 0.05

logger = logging.getLogger("django_taskops")


@dataclass(slots=True)
class Span:
    """What this process has seen of the delivery that it executes. `chain` are its next steps, the last one first:
    Celery up to 5.6 takes them away one by one. `around` is the exception that was being handled already when it began:
    a child that was forked by a worker which handles one, a lost connection say, handles it for the rest of its life.
    """

    delivery: str
    chain: tuple[Any, ...] = ()
    returned: bool = False
    raised: BaseException | None = None
    retry_refused: bool = False
    let_out: bool = False  # it could not be parked
    ended: bool = False
    progress_told: float = 0.0
    executor: Executor | None = None
    around: BaseException | None = None


_spans: WeakKeyDictionary[Any, Span] = WeakKeyDictionary()
"""By request, and not on it: a project may well serialize the attributes of a request."""

_parked: WeakSet[Any] = WeakSet()
"""Requests whose failure is on record as one that Celery is not told of."""


def now() -> datetime:
    return datetime.now(UTC)


def records(task_name: str, *, eager: bool) -> bool:
    """True where a delivery of this task is recorded in this process."""
    if not conf.tracks(task_name):
        return False
    return not eager or _records_eager()


def begin(task: Any) -> Span | None:
    """Called when the task is about to run; None where this delivery is not recorded, or has begun already."""
    request = task.request
    if request.called_directly or span_of(request) or not records(task.name, eager=bool(request.is_eager)):
        return None
    delivery = getattr(request, own.DELIVERY, None) or str(uuid.uuid4())
    _spans[request] = span = Span(delivery, chain=canvas_of(request).chain, around=sys.exc_info()[1])
    if request.is_eager:
        tell(task, EventKind.PUBLISHED, delivery="", call=_eager_call(task))
    tell(task, EventKind.STARTED)
    return span


class Superseded(Ignore):
    """A message must not run: its task has been put back since, another send of the same requeue has started, or it
    keeps killing workers."""


def refuse(task: Any) -> None:
    """Raises Superseded for such a message. Costs nothing where it was sent once and the broker does not say that it
    comes again."""
    request = task.request
    nonce = getattr(request, own.NONCE, None)
    delivered = request.delivery_info
    redelivered = isinstance(delivered, dict) and delivered.get("redelivered")
    if not (nonce or redelivered) or request.called_directly or span_of(request):  # it runs, and calls itself
        return
    if by := _overtaken_by(request, str(nonce)) if nonce else _superseded_by(request):
        delivery = getattr(request, own.DELIVERY, None) or str(uuid.uuid4())
        _spans[request] = Span(delivery)  # it has not started, and never will
        raise Superseded(by)


def _superseded_by(request: Any) -> str:
    """What has been sent since in its stead, in words, "" for nothing."""
    key = _superseded_key(request)
    return _asked(lambda: journal.current().holder(key), "") if key else ""


def _overtaken_by(request: Any, nonce: str) -> str:
    """The same of a message of a requeue, of which another send may have started before."""
    who = own.identity(vars(request))
    key = own.sent(storable_id(request.id), who["publication"], who["generation"], who["retries"])
    newer = _superseded_key(request)
    by, first = _asked(lambda: journal.current().claim_beside(newer, key, nonce), ("", ""))
    if by or first in ("", nonce):
        return by
    return f"the same requeue was sent twice, and message {first} has started"


def _superseded_key(request: Any) -> str:
    who = own.identity(vars(request))
    return own.superseded(storable_id(request.id), who["publication"], who["generation"])


def _asked(question: Callable[[], T], silence: T) -> T:
    """The journal's answer, `silence` where it has none to give: a task that may run runs."""
    try:
        return question()
    except Exception as error:
        let_limit_through(error)
        if due("claims"):
            logger.warning("django-taskops: can't ask whether a message may run, so it runs", exc_info=True)
        return silence


def span_of(request: Any) -> Span | None:
    return None if request is None else _spans.get(request)


def end(task: Any, state: str | None, result: Any) -> None:
    """Called when Celery is done with it. `state` is what Celery made of it, None where it was interrupted."""
    span = span_of(task.request)
    if span is None and (span := begin(task)) is not None:  # what ends before its run() has not begun yet
        span.around = None
    if span is None:
        return
    try:
        if task.request not in _parked:
            _tell_end(task, span, state, result)
    finally:
        span.ended = True
        # What it raised leads by its traceback to the request, which would never be forgotten.
        _spans.pop(task.request, None)


def park(task: Any, request: Any, error: BaseException) -> bool:
    """Called before Celery's result backend hears of a failure: tells the end now. True where it is on record, so that
    the result backend need not hear of it."""
    if request in _parked or _park(task, request, error):
        return True
    if span := span_of(request):
        span.let_out = True
    return False


@shielded
def _park(task: Any, request: Any, error: BaseException) -> bool:
    span = span_of(request)
    if span is None and task.request is request:
        span = begin(task)  # what fails before its run() has not begun yet
    if span is None or task.request is not request:
        return False
    _tell_end(task, span, states.FAILURE, error)
    return request in _parked


def foretell(task: Any, span: Span) -> None:
    """Tells how the body has ended, before Celery is done with it: what it says at the end outweighs that. Says nothing
    of a body that has returned and that something has to follow: that is not sent yet; nor of a failure that may be
    parked: that is told before the result backend hears of it."""
    left = span.raised
    if left is None:
        if not _has_followers(task.request, span):
            tell(task, EventKind.RETURNED, span=span)
    elif not parks(task) and (verdict := _verdict(task, span, left)) is not None:
        kind, outcome = verdict
        tell(task, kind, span=span, outcome=outcome)


def _has_followers(request: Any, span: Span) -> bool:
    return bool(request.chord or request.callbacks or _unsent(request, span))


def _tell_end(task: Any, span: Span, state: str | None, result: Any) -> None:
    left = _undispatched(span) if state == states.SUCCESS else _left_by(span, result)
    if left is None and (span.returned or state == states.SUCCESS):
        tell(task, EventKind.SUCCEEDED, outcome=_success(task, result))
    elif left is not None and (verdict := _verdict(task, span, left)) is not None:
        kind, outcome = verdict
        end = tell(task, kind, outcome=outcome)
        if outcome.parked:
            _parked.add(task.request)
        _tell_downstream(task.request, span, end, outcome)


def _tell_downstream(request: Any, span: Span, end: Event, outcome: Outcome) -> None:
    """Whatever replaces a task, or has been sent in its stead, goes on with its chain; behind one that is parked the
    chain waits."""
    goes_on = outcome.parked or outcome.reason in (QuietReason.REPLACED, QuietReason.DUPLICATE)
    if not (request.is_eager or goes_on or end.kind is EventKind.RETRIED):
        tell_upstream_failed(end, chain=_unsent(request, span), chord=canvas_of(request).chord, root=request.root_id)


def _unsent(request: Any, span: Span) -> Sequence[Any]:
    """The next steps, none where Celery has published the first of them: it does so before it stores the result."""
    sent = {getattr(child, "id", None) for child in request.children or ()}
    return () if any(step["options"].get("task_id") in sent for step in span.chain[-1:]) else span.chain


def _left_by(span: Span, result: Any) -> BaseException | None:
    """The exception that ended it: the body's own, else what Celery made of it, else the one on its way out."""
    if span.raised is not None or isinstance(result, BaseException):
        return span.raised or result
    return None if span.returned else _on_its_way_out(span)


def _on_its_way_out(span: Span) -> BaseException | None:
    error = sys.exc_info()[1]
    return None if error is span.around else error


def _undispatched(span: Span) -> BaseException | None:
    """What kept Celery from publishing the callbacks or the next step of a task that has returned; None where nothing
    did. On its way out may also be what the result backend or the hook `on_success` has raised."""
    error = _on_its_way_out(span)
    called = error.__traceback__.tb_next if error is not None and error.__traceback__ is not None else None
    if called is None or called.tb_frame.f_code.co_name in ("mark_as_done", "on_success"):
        return None
    return error


def tell(task: Any, kind: EventKind, *, delivery: str | None = None, span: Span | None = None, **facts: Any) -> Event:
    """Appends an event about the request that `task` executes, and returns it. `span` is given by another thread than
    the one that executes it, which may be done with it meanwhile."""
    request = task.request
    if delivery is None:
        span = span or _spans[request]
    event = Event(
        kind=kind,
        task_id=storable_id(request.id),
        task_name=storable(task.name),
        at=now(),
        delivery=span.delivery if span else delivery or "",
        executor=_executor(task, span) if span else None,
        **own.identity(vars(request)),
        **facts,
    )
    (journal.immediate() if request.is_eager else journal.current()).append(event)
    return event


def _executor(task: Any, span: Span) -> Executor:
    if span.executor is None:
        span.executor = executor(task, task.request.hostname, pid=os.getpid())
    return span.executor


def limit_goes_on(receiver: Callable[..., None]) -> Callable[..., None]:
    """For receivers of signals that a running task sends: Celery swallows what they raise, and with it the soft time
    limit of the task, if that strikes just then. It is delivered once more."""

    @wraps(receiver)
    def patient(*args: Any, **kwargs: Any) -> None:
        try:
            receiver(*args, **kwargs)
        except SoftTimeLimitExceeded:
            span = span_of(getattr(get_current_task(), "request", None))
            threading.Timer(SECONDS_TO_STRIKE_AGAIN, _strike_again, (span,)).start()

    return patient


def _strike_again(span: Span | None) -> None:
    if span is not None and not span.ended and not span.returned and span.raised is None:
        os.kill(os.getpid(), signal.SIGUSR1)  # billiard's signal for the soft limit


def report_progress(task: Any, current: float, total: float | None, message: str) -> None:
    """At most one event a second, and the last one always."""
    span = span_of(task.request)
    if span is None:
        return
    told = time.monotonic()
    if current != total and told - span.progress_told < SECONDS_BETWEEN_PROGRESS:
        return
    span.progress_told = told
    percent = round(100 * current / total, 1) if total else None
    progress = {
        "current": current,
        "total": total,
        "percent": percent,
        "message": storable(message),
        "at": now().isoformat(),
    }
    tell(task, EventKind.PROGRESS, progress=progress)


def _verdict(task: Any, span: Span, left: BaseException) -> tuple[EventKind, Outcome] | None:
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


def _success(task: Any, result: Any) -> Outcome:
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
    return now() + timedelta(seconds=when) if isinstance(when, (int, float)) else None


def _records_eager() -> bool:
    return bool(current_app.conf.task_store_eager_result) if conf.RECORD_EAGER is None else conf.RECORD_EAGER


def _eager_call(task: Any) -> Call:
    request = task.request
    fields = describe(vars(request), request.args, request.kwargs, task=task, queue="", priority=None)
    return without_envelope(fields, EnvelopeError("run eagerly: there was no message"))
