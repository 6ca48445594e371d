"""The call as its publisher, its message or a running request describes it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from celery import Celery, _state
from celery.app import app_or_default
from celery.utils.time import maybe_iso8601

from ..events import JSON, Call
from ..exceptions import EnvelopeError
from . import headers as own
from .envelope import Envelope, Sender
from .redaction import display, display_args, parameters_of
from .shield import shielded
from .text import storable, storable_id


def describe(
    headers: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    task: Any,
    queue: object,
    priority: object,
) -> dict[str, Any]:
    """The fields of a `Call` without its envelope. `task` is None where this process does not know the task: then
    nobody knows which of its arguments are sensitive, and all are left out (None), as are those that can't be
    displayed."""
    shown_args, shown_kwargs = (task is not None and _arguments(task, args, kwargs)) or (None, None)
    return {
        "queue": storable(queue),
        "priority": priority if isinstance(priority, int) and -(2**15) <= priority < 2**15 else None,
        "args": shown_args,
        "kwargs": shown_kwargs,
        "eta": instant(headers.get("eta")),
        "expires": instant(headers.get("expires")),
        "parent_id": _id(headers.get("parent_id")),
        "root_id": _id(headers.get("root_id")),
        "group_id": _id(headers.get("group")),
        "group_index": own.count(headers.get("group_index")),
        "periodic_task": storable(headers.get(own.PERIODIC_TASK) or headers.get("periodic_task_name")),
        "owner": storable(headers.get(own.OWNER)),
        "trace_id": _trace_id(headers),
        "requeued_from": _id(headers.get(own.REQUEUED_FROM)),
    }


@shielded
def _arguments(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[JSON, JSON]:
    sensitive = task.taskops.sensitive if hasattr(task, "taskops") else ()
    return display_args(args, parameters_of(task), sensitive), display(kwargs, sensitive)


def with_envelope(fields: Mapping[str, Any], envelope: Envelope) -> Call:
    """A call that can be sent again, or says why it can't."""
    try:
        return Call(envelope=envelope.to_bytes(), **fields)
    except EnvelopeError as error:
        return without_envelope(fields, error)


def without_envelope(fields: Mapping[str, Any], error: Exception) -> Call:
    return Call(envelope_error=storable(error if isinstance(error, EnvelopeError) else repr(error)), **fields)


def task_of(app: Celery, name: str) -> Any:
    """The task of that name, None where this process has not loaded it. Loads nothing."""
    return vars(app)["_tasks"].get(name)  # `app.tasks` would import every task module


def is_certain(app: Celery, task_name: str) -> bool:
    """True where it is known how that task is sent. The signals of a publish do not say which app sends, so that a
    second one that has the task, and would send it otherwise, leaves the word to the worker."""
    if task_of(app, task_name) is None:
        return False
    ways = [_way_of(other, task_name) for other in _apps() if task_of(other, task_name) is not None]
    return ways == ways[:1] * len(ways)


def _way_of(app: Celery, task_name: str) -> tuple[object, ...]:
    return (*sender_of(app, task_name), app.conf.broker_write_url) if len(_apps()) > 1 else ()


def app_of(envelope: Envelope) -> Celery:
    """The app of this process that sends it again: the one that its worker has named, else the current one."""
    named = [app for app in _apps() if envelope.app and app.main == envelope.app]
    return named[0] if len(named) == 1 else app_or_default()


def _apps() -> Sequence[Celery]:
    """All of this process."""
    return list(vars(_state)["_apps"])


def serializer_of(app: Celery, task: Any) -> str:
    """The name of the serializer that a task, or None, is sent with."""
    return str(getattr(task, "serializer", None) or app.conf.task_serializer)


def sender_of(app: Celery, task_name: str) -> Sender:
    task = task_of(app, task_name)
    return Sender(
        serializer=serializer_of(app, task),
        compression=getattr(task, "compression", None) or app.conf.task_compression or "",
    )


def _id(value: object) -> str:
    return storable_id(str(value)) if value else ""


def instant(value: Any) -> datetime | None:
    """An eta or expiry of a message, which is ISO text or a datetime; naive ones are UTC. None for anything else."""
    try:
        instant = maybe_iso8601(value)
    except (TypeError, ValueError):
        return None
    if not isinstance(instant, datetime) or not 1970 <= instant.year < 9000:
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _trace_id(headers: Mapping[str, Any]) -> str:
    """The trace id of a W3C `traceparent` or a `sentry-trace` header, "" where there is none."""
    parent, sentry = headers.get("traceparent"), headers.get("sentry-trace")
    if isinstance(parent, str) and parent.count("-") >= 3:
        return storable(parent.split("-")[1], 64)
    return storable(sentry.split("-")[0], 64) if isinstance(sentry, str) else ""
