"""Celery's signals, connected when Django starts."""

import uuid
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NamedTuple

from celery import current_app, signals
from celery._state import get_current_task

from .. import journal
from ..conf import conf
from ..events import Event, EventKind, Outcome
from . import beat, chords, consumer, lifecycle, meaning, worker, wrapper
from . import headers as own
from .call import describe, instant, is_certain, sender_of, task_of, with_envelope, without_envelope
from .envelope import of_publish
from .frames import outcome_of
from .message import needs_description, received_call
from .request import event_of
from .shield import let_limit_through, shielded
from .takeover import take_over
from .text import storable, storable_id


class _Publish(NamedTuple):
    """A publish between its two signals. `at` is when it began: a worker may be done before the broker has answered."""

    at: datetime
    headers: dict[str, Any]
    properties: dict[str, Any]
    declare: Any


MAX_PUBLISHING = 8

_publishing: ContextVar[tuple[_Publish, ...]] = ContextVar("taskops_publishing", default=())
"""Publishes that are under way: a receiver of the project's may publish in the middle of another. One that fails is
never taken out, so that the oldest give way."""


def connect() -> None:
    """Connects every receiver, once however often it is called."""
    chords.tell_chords()
    for name, receiver in _RECEIVERS.items():
        getattr(signals, name).connect(receiver, weak=False, dispatch_uid=f"taskops.{name}")


@lifecycle.limit_goes_on
@shielded
def before_task_publish(
    headers: Any = None, body: Any = None, properties: Any = None, declare: Any = None, **_kwargs: Any
) -> None:
    """Stamps the message. The rest waits for its success, so that a refused publish leaves no trace of ours."""
    if not isinstance(body, tuple) or not headers or not conf.tracks(headers["task"]):
        return  # message protocol 1 has no headers
    own.stamp(headers, getattr(get_current_task(), "request", None))
    beat.stamp(headers)
    headers[own.DESCRIBE] = True  # taken back below, where nothing is in doubt
    publish = _Publish(lifecycle.now(), headers, properties or {}, declare)
    _publishing.set((*_publishing.get(), publish)[-MAX_PUBLISHING:])
    if is_certain(current_app, headers["task"]) and not journal.current().deferring():
        del headers[own.DESCRIBE]


@lifecycle.limit_goes_on
@shielded
def after_task_publish(headers: Any = None, body: Any = None, **kwargs: Any) -> None:
    pending = _publishing.get()
    publish = next((publish for publish in pending if publish.headers is headers), None)
    _publishing.set(tuple(other for other in pending if other is not publish))
    if publish is None:
        return
    route = {name: _name(kwargs.get(name)) for name in ("exchange", "routing_key")}
    route["queue"] = publish.declare[0].name if publish.declare else route["routing_key"]
    event = Event(
        kind=EventKind.PUBLISHED,
        task_id=storable_id(headers["id"]),
        task_name=storable(headers["task"]),
        at=publish.at,
        call=_published_call(publish, body, route),
        **own.identity(headers),
    )
    journal.current().append(event)


@shielded
def worker_init(sender: Any = None, **_kwargs: Any) -> None:
    """Before the worker builds its consumer, strategies and tracers, and before it forks."""
    from . import roll_call  # noqa: F401 registers its question; much to import, for processes that are no worker

    worker.note_main_process()
    consumer.install(sender.app)
    take_over(sender.app)


@shielded
def celeryd_after_setup(instance: Any = None, **_kwargs: Any) -> None:
    """What the project's own handlers have registered since. Before the worker forks."""
    take_over(instance.app)


@shielded
def beat_init(sender: Any = None, **_kwargs: Any) -> None:
    beat.name_entries(sender.scheduler)


@shielded
def task_received(request: Any = None, **_kwargs: Any) -> None:
    """Names the delivery, in the worker's main process; the name travels to the child with the request."""
    headers = request.request_dict
    headers[own.DELIVERY] = str(uuid.uuid4())
    if not conf.tracks(request.task.name):
        return
    describes = needs_description(request)
    redelivered = bool((request.delivery_info or {}).get("redelivered"))
    if describes or redelivered or headers.get("eta") or conf.RECORD_RECEIVED:
        call = received_call(request) if describes or redelivered else None
        retry_at = instant(headers.get("eta")) if headers.get("retries") else None
        outcome = Outcome(retry_at=retry_at)
        journal.current().append(event_of(request, EventKind.RECEIVED, call=call, outcome=outcome))


@shielded
def task_prerun(task: Any = None, **_kwargs: Any) -> None:
    """A beginning for tasks without our wrapper: eager ones, and those registered after the worker's start."""
    chords.let_go(task.request)
    if not wrapper.wrapped(task) or task.request.is_eager:
        lifecycle.begin(task)


@lifecycle.limit_goes_on
@shielded
def task_postrun(task: Any = None, state: str | None = None, retval: Any = None, **_kwargs: Any) -> None:
    lifecycle.end(task, state, retval)


@shielded
def task_internal_error(
    sender: Any = None,
    task_id: str = "",
    kwargs: Any = None,
    request: Any = None,
    exception: Any = None,
    **_signal: Any,
) -> None:
    """Celery's own failure around a task; or a message whose keyword arguments are no mapping, which is found here."""
    headers = dict(request or {})
    if headers.get(own.DELIVERY) and conf.tracks(sender.name):
        event = Event(
            kind=EventKind.BROKE if isinstance(kwargs, Mapping) else EventKind.UNDECODABLE,
            task_id=storable_id(task_id),
            task_name=storable(sender.name),
            at=lifecycle.now(),
            delivery=headers[own.DELIVERY],
            outcome=outcome_of(exception, **meaning.routing(sender)),
            **own.identity(headers),
        )
        journal.current().append(event)


def _published_call(publish: _Publish, body: Any, route: dict[str, str]) -> Any:
    headers = publish.headers
    fields = describe(
        headers,
        body[0],
        body[1],
        task=task_of(current_app, headers["task"]),
        queue=route["queue"],
        priority=publish.properties.get("priority"),
    )
    try:
        envelope = of_publish(body, headers, publish.properties, route, sender_of(current_app, headers["task"]))
    except Exception as error:  # noqa: BLE001 the serializer's own code runs here; the worker sends its word
        let_limit_through(error)
        return without_envelope(fields, error)
    return with_envelope(fields, envelope)


def _name(entity: Any) -> str:
    return str(getattr(entity, "name", entity) or "")


_RECEIVERS: dict[str, Callable[..., None]] = {
    receiver.__name__: receiver
    for receiver in (
        before_task_publish,
        after_task_publish,
        worker_init,
        celeryd_after_setup,
        beat_init,
        task_received,
        task_prerun,
        task_postrun,
        task_internal_error,
    )
}
