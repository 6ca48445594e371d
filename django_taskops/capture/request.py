"""What happens to a delivery in the worker's main process, seen where it happens: in its Request."""

import uuid
from typing import Any

from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded, WorkerLostError
from celery.utils.imports import symbol_by_name

from .. import journal
from ..conf import conf
from ..events import Event, EventKind, Outcome
from ..states import DeadLetterReason
from . import headers as own
from .frames import outcome_of
from .lifecycle import now, routing
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

    taskops_requeued = False

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        try:
            return super().on_timeout(soft, timeout)  # type: ignore[misc]
        finally:
            if not soft and not self.taskops_requeued:
                _tell_error(self, EventKind.TIMED_OUT, TimeLimitExceeded(timeout))

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        try:
            return super().on_failure(exc_info, send_failed_event, return_ok)  # type: ignore[misc]
        finally:
            if not return_ok and not self.taskops_requeued:
                _tell_failure(self, exc_info)

    def reject(self, requeue: bool = False) -> Any:
        if requeue and not self.acknowledged:  # type: ignore[attr-defined]
            self.taskops_requeued = True
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
            if not put_back:
                _tell(self, EventKind.CANCELLED, Outcome())


@shielded
def _tell_failure(request: Any, exc_info: Any) -> None:
    error = exc_info.exception
    error = getattr(error, "exc", error) if type(error).__name__ == "ExceptionWithTraceback" else error
    if isinstance(error, (Ignore, Reject, Retry)) or type(error).__name__ == "Terminated":
        return
    if isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt, GeneratorExit)):
        _tell_error(request, EventKind.WORKER_LOST, error)
    elif isinstance(error, TimeLimitExceeded):
        _tell_error(request, EventKind.TIMED_OUT, error)
    else:
        _tell_error(request, EventKind.BROKE, error)


@shielded
def _tell_error(request: Any, kind: EventKind, error: BaseException) -> None:
    _tell(request, kind, outcome_of(error, **routing(request.task)))


@shielded
def _tell_revoked(request: Any, expired: bool) -> None:
    reason = DeadLetterReason.EXPIRED if expired else ""
    _tell(request, EventKind.REVOKED, Outcome(reason=reason, **routing(request.task)))


@shielded
def _tell(request: Any, kind: EventKind, outcome: Outcome) -> None:
    if conf.tracks(request.task.name):
        journal.current().append(event_of(request, kind, outcome=outcome))


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
