"""From what happens to a delivery in the process that executes it, to events."""

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import Any
from weakref import WeakSet

from celery import _state, current_app, states
from celery.exceptions import SoftTimeLimitExceeded

from .. import journal
from ..conf import conf
from ..events import Call, Event, EventKind, Executor, Outcome
from ..exceptions import EnvelopeError
from ..states import QuietReason
from . import headers as own
from . import meaning
from .call import describe, without_envelope
from .chords import canvas_of
from .claims import Superseded, objection
from .downstream import tell_upstream_failed
from .options import parks
from .shield import shielded
from .span import Span, span_of, spans
from .text import storable, storable_id
from .worker import executor

SECONDS_BETWEEN_PROGRESS = 1.0
SECONDS_TO_STRIKE_AGAIN = 0.05

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
    spans[request] = span = Span(delivery, chain=canvas_of(request).chain, around=sys.exc_info()[1])
    if request.is_eager:
        tell(task, EventKind.PUBLISHED, delivery="", call=_eager_call(task))
    tell(task, EventKind.STARTED)
    return span


def refuse(task: Any) -> None:
    """Raises Superseded for a message that must not run."""
    request = task.request
    if request.called_directly or span_of(request):  # it runs, and calls itself
        return
    if why := objection(request):
        delivery = getattr(request, own.DELIVERY, None) or str(uuid.uuid4())
        spans[request] = Span(delivery)  # it has not started, and never will
        raise Superseded(why)


def end(task: Any, state: str | None, result: Any) -> None:
    """Called when Celery is done with it. `state` is what Celery made of it, None where it was interrupted. Where a
    soft time limit strikes in here, the end is told all the same, and the limit raised: it may be that of a task which
    has called this one."""
    span = span_of(task.request)
    if span is None and (span := begin(task)) is not None:  # what ends before its run() has not begun yet
        span.around = None
    if span is None:
        return
    try:
        limit = None if task.request in _parked else _limit_in_end(task, span, state, result)
        if limit is not None:
            _tell_end(task, span, state, result, shown=False)
        span.ended = True
        if limit is not None:
            raise limit
    finally:
        # What it raised leads by its traceback to the request, which would never be forgotten.
        spans.pop(task.request, None)


def _limit_in_end(task: Any, span: Span, state: str | None, result: Any) -> SoftTimeLimitExceeded | None:
    """Tells the end; returns the limit that has cut this off. Told anew while that was handled, the end would be the
    limit's: see `_on_its_way_out`."""
    try:
        _tell_end(task, span, state, result)
    except SoftTimeLimitExceeded as limit:
        return limit
    return None


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
    left = span.raised if span.raised is not None else span.retry_sent
    if left is None:
        if not _has_followers(task.request, span):
            tell(task, EventKind.RETURNED, span=span)
    elif not parks(task) and (verdict := meaning.verdict(task, span, left)) is not None:
        kind, outcome = verdict
        tell(task, kind, span=span, outcome=outcome)


def _has_followers(request: Any, span: Span) -> bool:
    return bool(request.chord or request.callbacks or _unsent(request, span))


def _tell_end(task: Any, span: Span, state: str | None, result: Any, *, shown: bool = True) -> None:
    left = _undispatched(span) if state == states.SUCCESS else _left_by(span, result)
    if left is None:
        left = span.retry_sent  # it went on: the attempt that it has sent has the say
    if left is None and (span.returned or state == states.SUCCESS):
        tell(task, EventKind.SUCCEEDED, outcome=meaning.success(task, result, shown=shown))
    elif left is not None and (verdict := meaning.verdict(task, span, left)) is not None:
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
        span = span or spans[request]
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
            threading.Timer(SECONDS_TO_STRIKE_AGAIN, _strike_again, (_limited(),)).start()

    return patient


def _limited() -> Span | None:
    """Of the task that the worker runs: the limit is that one's, also where it has called another in its process."""
    running: Any = vars(_state)["_task_stack"].stack
    requests = running[0].request_stack.stack if running else ()
    return span_of(requests[0]) if requests else None


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


def _records_eager() -> bool:
    return bool(current_app.conf.task_store_eager_result) if conf.RECORD_EAGER is None else conf.RECORD_EAGER


def _eager_call(task: Any) -> Call:
    request = task.request
    fields = describe(vars(request), request.args, request.kwargs, task=task, queue="", priority=None)
    return without_envelope(fields, EnvelopeError("run eagerly: there was no message"))
