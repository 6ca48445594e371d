"""What happens to a delivery in the worker's main process, seen where it happens: in its Request."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import celery
from celery import _state, states
from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded, WorkerLostError
from celery.utils.imports import symbol_by_name
from celery.worker import state

from .. import journal
from ..conf import conf
from ..events import Event, EventKind, Outcome
from ..states import DeadLetterReason
from . import chords
from . import headers as own
from .downstream import tell_upstream_failed
from .frames import outcome_of
from .lifecycle import now
from .meaning import routing
from .message import needs_description, received_call
from .parking import asking
from .shield import shielded
from .text import storable, storable_id
from .worker import executor

_classes: dict[type, type] = {}


def install(task: Any) -> None:
    """Puts the mixin over whatever Request class the task has. Before the worker builds its strategies."""
    base = symbol_by_name(task.Request)
    if issubclass(base, TaskOpsRequest):
        return
    mixed = _classes.setdefault(base, type("Request", (TaskOpsRequest, base), {}))
    type(task).Request = mixed


class TaskOpsRequest:
    """A mixin over `celery.worker.request.Request`. Each hook records in spite of whatever Celery's own part raises,
    since that begins with the result backend, which may be down."""

    taskops_requeued = False  # the message goes back to the broker, or another attempt is on its way
    taskops_error: Any = None  # what it has failed with, as the main process is told
    taskops_succeeded = False
    taskops_parked = False  # its failure is on record, and the result backend does not hear of it
    taskops_let_out = False  # its failure was to be parked, and could not be recorded
    taskops_canvas: chords.Canvas | None = None  # as the message has it, where a chord was let go

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chords.let_go_in_main(self)
        if self.request_dict.get(own.OUTLIVES):  # type: ignore[attr-defined]
            state.revoked.discard(self.id)  # type: ignore[attr-defined]

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        try:
            with asking(self.taskops_park):
                return super().on_timeout(soft, timeout)  # type: ignore[misc]
        finally:
            if not (soft or self.taskops_requeued or self.taskops_parked):
                _tell_error(self, EventKind.TIMED_OUT, TimeLimitExceeded(timeout))

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        self.taskops_error = getattr(exc_info, "exception", None)
        if not hasattr(super(), "_success_was_stored"):
            _look_for_success(self)
        try:
            with asking(self.taskops_park):
                return super().on_failure(exc_info, *args, **kwargs)  # type: ignore[misc]
        finally:
            told = self.taskops_parked or (args[1] if len(args) > 1 else kwargs.get("return_ok", False))
            if not (told or self.taskops_requeued or self.taskops_succeeded):
                _tell_failure(self, _unwrapped(self.taskops_error))

    def taskops_park(self, error: BaseException) -> bool:
        """Called before the result backend hears of a failure: tells of it now. True where the backend need not hear
        of it."""
        if isinstance(error, Reject) or self.taskops_succeeded:
            return True  # told by the process of the task; or stored by it, and a failure would overwrite that
        if isinstance(error, TimeLimitExceeded) and _goes_back(self):
            return True  # Celery 5.7 stores a failure, and puts the message back
        self.taskops_parked = self.taskops_parked or _tell_failure(self, error) is not None
        self.taskops_let_out = not self.taskops_parked
        return self.taskops_parked

    def _retry_worker_lost(self, exc: Any, exc_info: Any) -> Any:
        """Celery 5.7: publishes the next attempt from the main process, where nobody knows what it belongs to."""
        with _running(self):
            sent = super()._retry_worker_lost(exc, exc_info)  # type: ignore[misc]
        if sent:
            self.taskops_requeued = True
            _tell_error(self, EventKind.RETRIED, exc)
        return sent

    def _success_was_stored(self) -> Any:
        """Celery 5.7: asked of a child that died after its task had succeeded. The meta of the result, or False."""
        stored = super()._success_was_stored()  # type: ignore[misc]
        if stored:
            _tell_stored_success(self, stored)
        return stored

    def reject(self, requeue: bool = False) -> Any:
        if requeue and not self.acknowledged:  # type: ignore[attr-defined]
            self.taskops_requeued = True
            _tell_put_back(self)
        return super().reject(requeue=requeue)  # type: ignore[misc]

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> Any:
        try:
            return super()._announce_revoked(reason, terminated, signum, expired)  # type: ignore[misc]
        finally:
            _tell_revoked(self, expired)

    def _announce_cancelled(self, *args: Any, **kwargs: Any) -> Any:
        put_back = self.task.acks_late and not self.acknowledged  # type: ignore[attr-defined]
        try:
            return super()._announce_cancelled(*args, **kwargs)  # type: ignore[misc]
        finally:
            if put_back:
                _tell(self, EventKind.ABANDONED, Outcome(reason=DeadLetterReason.CANCELLED))
            else:
                _tell_end(self, EventKind.CANCELLED, Outcome(**routing(self.task)))  # type: ignore[attr-defined]


@shielded
def _look_for_success(request: Any) -> None:
    """What Celery 5.7 asks by itself: a child may die when its task has succeeded, and nobody has told it yet."""
    if not isinstance(_unwrapped(request.taskops_error), WorkerLostError):
        return
    backend = request.task.backend
    if not request.ignore_result and backend.as_uri() != "rpc://":  # looking there would declare a queue
        meta = backend.get_task_meta(request.id, cache=False)
        if meta["status"] == states.SUCCESS:
            _tell_stored_success(request, meta)


@shielded
def _tell_stored_success(request: Any, meta: Mapping[str, Any]) -> None:
    """A success that was stored before this delivery had started is that of another one under the same id: with that
    its canvas went on."""
    request.taskops_succeeded = True
    if _is_older(meta.get("date_done"), request.time_start):
        routed = routing(request.task) | {"parked": False}  # Celery takes it for a success
        _tell(request, EventKind.WORKER_LOST, outcome_of(_unwrapped(request.taskops_error), **routed))
    else:
        _tell(request, EventKind.SUCCESS_STORED, Outcome(dead_letter=False))


def _is_older(done: Any, started: float | None) -> bool:
    """`done` is what a result backend says: a datetime or its text. False where it says nothing that can be compared,
    such as an instant without its zone, which some give in UTC and others in the project's."""
    try:
        when = done if isinstance(done, datetime) else datetime.fromisoformat(done)
    except (TypeError, ValueError):
        return False
    return started is not None and when.tzinfo is not None and when.timestamp() < started


@contextmanager
def _running(request: Any) -> Iterator[None]:
    """As if the request's task ran here: what it publishes under its own id is its own next attempt."""
    task = request.task
    running: Any = vars(_state)["_task_stack"]
    task.request_stack.push(request._context)  # noqa: SLF001
    running.push(task)
    try:
        yield
    finally:
        running.pop()
        task.request_stack.pop()


@shielded
def _tell_put_back(request: Any) -> None:
    """The broker has it again, and delivers it to whoever comes next."""
    error = _unwrapped(request.taskops_error)
    lost = isinstance(error, WorkerLostError)
    outcome = outcome_of(error, reason=DeadLetterReason.WORKER_LOST) if lost else Outcome()
    _tell(request, EventKind.ABANDONED, outcome)


def _goes_back(request: Any) -> bool:
    """True where the broker gets the message back after a hard time limit, as Celery does since 5.5."""
    task = request.task
    acks = getattr(task, "acks_on_timeout", task.acks_on_failure_or_timeout)  # the first since Celery 5.7
    return celery.VERSION >= (5, 5) and task.acks_late and not acks and not request.acknowledged


def _tell_failure(request: Any, error: Any) -> Event | None:
    if isinstance(error, (Ignore, Reject, Retry)) or type(error).__name__ == "Terminated":
        return None
    if isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt, GeneratorExit)):
        return _tell_error(request, EventKind.WORKER_LOST, error)
    if isinstance(error, TimeLimitExceeded):
        return _tell_error(request, EventKind.TIMED_OUT, error)
    return _tell_error(request, EventKind.BROKE, error)


def _unwrapped(error: Any) -> Any:
    """billiard wraps what comes from a child."""
    return getattr(error, "exc", error) if type(error).__name__ == "ExceptionWithTraceback" else error


@shielded
def _tell_error(request: Any, kind: EventKind, error: BaseException) -> Event | None:
    outcome = outcome_of(error, **_routing(request))
    return (_tell if kind in _NO_END else _tell_end)(request, kind, outcome)


_NO_END = (EventKind.RETRIED, EventKind.BROKE)  # the second may be said of a task that has succeeded


def _routing(request: Any) -> dict[str, Any]:
    return routing(request.task) | ({"parked": False} if request.taskops_let_out else {})


@shielded
def _tell_revoked(request: Any, expired: bool) -> None:
    """A message that is discarded on arrival is seen here first; again and again while the result backend is down."""
    unseen = own.DELIVERY not in request.request_dict
    call = received_call(request) if unseen and needs_description(request) else None
    if unseen:
        request.request_dict[own.DELIVERY] = own.discarded(request.id, request.request_dict)
    reason = DeadLetterReason.EXPIRED if expired else ""
    told = routing(request.task) | {"parked": False}  # Celery knows of it
    _tell_end(request, EventKind.REVOKED, Outcome(reason=reason, **told), call=call)


@shielded
def _tell(request: Any, kind: EventKind, outcome: Outcome, **facts: Any) -> Event | None:
    """The event that it appends; None where the task is not tracked."""
    if not conf.tracks(request.task.name):
        return None
    event = event_of(request, kind, outcome=outcome, **facts)
    journal.current().append(event)
    return event


@shielded
def _tell_end(request: Any, kind: EventKind, outcome: Outcome, **facts: Any) -> Event | None:
    """Of a delivery after which nothing of its canvas goes on, or, where it is parked, not yet."""
    event = _tell(request, kind, outcome, **facts)
    if event and not outcome.parked:
        _tell_downstream(request, event)
    return event


@shielded
def _tell_downstream(request: Any, event: Event) -> None:
    embed = request._payload[2] or {}  # noqa: SLF001
    canvas = request.taskops_canvas or chords.Canvas(tuple(embed.get("chain") or ()), embed.get("chord"))
    tell_upstream_failed(event, chain=canvas.chain, chord=canvas.chord, root=request.root_id)


def event_of(request: Any, kind: EventKind, **facts: Any) -> Event:
    """An event of the worker's main process about the delivery that `request` is."""
    return Event(
        kind=kind,
        task_id=storable_id(request.id),
        task_name=storable(request.task.name),
        at=now(),
        delivery=request.request_dict.setdefault(own.DELIVERY, str(uuid.uuid4())),
        executor=executor(request.task, request.hostname, pid=None),
        **own.identity(request.request_dict),
        **facts,
    )
