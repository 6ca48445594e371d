"""Messages for which a worker has no task to run: seen where its consumer gives them up.

Celery announces some of them by a signal, some only where its result backend answers, and some not at all. Some would
end the worker itself, and the next that the broker gives them to: those that are known are given up like the others.
"""

import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from celery import bootsteps
from celery.exceptions import InvalidTaskError, NotRegistered
from kombu import Message

from .. import journal
from ..conf import conf
from ..events import Event, EventKind
from . import headers as own
from .downstream import tell_upstream_failed
from .frames import outcome_of
from .lifecycle import now
from .message import undelivered_call
from .shield import shielded
from .takeover import take_over
from .text import storable, storable_id

NAMELESS = "undecodable-"  # and random digits: the id of a run whose message has none


@shielded
def install(app: Any) -> None:
    """Before the worker builds its consumer."""
    app.steps["consumer"].add(GivenUp)


class GivenUp(bootsteps.StartStopStep):
    """Listens to a consumer by its own methods, over whatever class of consumer the project has."""

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._listen(consumer)

    @shielded
    def _listen(self, consumer: Any) -> None:
        for name, kind in _ENDINGS.items():
            setattr(consumer, name, _telling(consumer, getattr(consumer, name), kind))
        consumer.update_strategies = _taking_over(consumer, consumer.update_strategies)
        create = consumer.create_task_handler
        consumer.create_task_handler = lambda *args, **kwargs: _guarded(consumer, create(*args, **kwargs))


_ENDINGS = {
    "on_decode_error": EventKind.UNDECODABLE,
    "on_unknown_message": EventKind.UNDECODABLE,
    "on_invalid_task": EventKind.UNDECODABLE,
    "on_unknown_task": EventKind.UNKNOWN_TASK,
}


def _telling(consumer: Any, give_up: Callable[..., Any], kind: EventKind) -> Callable[..., Any]:
    """Celery's `give_up`, called with a message and the error somewhere among its arguments. What was seen is told
    in any case: Celery asks its result backend first."""

    def give_up_and_tell(*args: Any, **kwargs: Any) -> Any:
        try:
            return give_up(*args, **kwargs)
        finally:
            _tell(consumer.app, kind, (*args, *kwargs.values()))

    return give_up_and_tell


def _taking_over(consumer: Any, update: Callable[..., Any]) -> Callable[..., Any]:
    """Celery's `update`, which builds the strategies and tracers of all tasks: when the consumer starts, and again
    when tasks were loaded while it runs."""

    def take_over_and_update(*args: Any, **kwargs: Any) -> Any:
        take_over(consumer.app)
        return update(*args, **kwargs)

    return take_over_and_update


def _guarded(consumer: Any, handle: Callable[[Message], Any]) -> Callable[[Message], Any]:
    """Celery's `handle`, but for messages at which it fails, and with it the worker, and the next that gets them."""

    def handle_or_give_up(message: Message) -> Any:
        if flaw := _flaw_of_headers(message.headers):
            return consumer.on_invalid_task(None, message, InvalidTaskError(flaw))
        try:
            return handle(message)
        except (TypeError, ValueError):
            if message.acknowledged or not _is_body_flawed(message):
                raise
            return consumer.on_invalid_task(None, message, InvalidTaskError(_NO_TRIPLE))

    return handle_or_give_up


def _flaw_of_headers(headers: Any) -> str:
    """What keeps Celery from making a request of a message, "" for nothing. One of protocol 1 has no such headers."""
    if not isinstance(headers, dict) or "task" not in headers:
        return ""
    if "id" not in headers:
        return "header id: expected one, found none"
    for name, (expected, accepts) in _HEADERS.items():
        if not accepts(headers.get(name)):
            return f"header {name}: expected {expected}, got {headers.get(name)!r:.200}"
    return ""


def _is_key(value: object) -> bool:
    return isinstance(value, Hashable)


def _is_limits(value: object) -> bool:
    return not value or (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(limit is None or isinstance(limit, (int, float)) for limit in value)
    )


def _is_stamped(value: object) -> bool:
    return not value or (isinstance(value, (str, list, tuple)) and all(map(_is_key, value)))


_HEADERS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "task": ("a name", _is_key),
    "id": ("a text", _is_key),
    "timelimit": ("two numbers or None", _is_limits),
    "stamped_headers": ("names", _is_stamped),
}
_NO_TRIPLE = "expected a body of arguments, keyword arguments and options"


def _is_body_flawed(message: Message) -> bool:
    if "task" not in message.headers:
        return False
    try:
        payload: Any = message.payload
    except Exception:  # noqa: BLE001 then it is not for its form that it failed
        return False
    return not (isinstance(payload, (list, tuple)) and len(payload) == 3)


@shielded
def _tell(app: Any, kind: EventKind, given: Sequence[Any]) -> None:
    message = next(value for value in given if isinstance(value, Message))
    error = next((value for value in given if isinstance(value, Exception)), None)
    task_id, name = _who(message)
    if not conf.tracks(name) or _is_control(message):
        return
    if kind is EventKind.UNKNOWN_TASK:
        error = NotRegistered(name)
    event = Event(
        kind=kind,
        task_id=storable_id(task_id or f"{NAMELESS}{uuid.uuid4().hex}"),
        task_name=storable(name),
        at=now(),
        delivery=str(uuid.uuid4()),
        outcome=outcome_of(error or InvalidTaskError(_UNKNOWN), dead_letter=conf.DEAD_LETTER == "all"),
        call=undelivered_call(app, message),
        **own.identity(message.headers),
    )
    journal.current().append(event)
    if kind is EventKind.UNKNOWN_TASK:
        _tell_downstream(event, message)


_UNKNOWN = "expected a task message, found neither the headers nor the body of one"


def _who(message: Message) -> tuple[str, str]:
    """Task id and name, each "" where the message has none; one of Celery's protocol 1 has them in its body."""
    said: Any = message.headers
    if "task" not in said:
        with suppress(Exception):  # whatever a body is that can't be decoded
            said = message.payload if isinstance(message.payload, dict) else said
    task_id, name = said.get("id"), said.get("task")
    return task_id if isinstance(task_id, str) else "", name if isinstance(name, str) else ""


def _is_control(message: Message) -> bool:
    """Celery's remote control gives up its messages by the same method."""
    delivery: Any = message.delivery_info or {}
    return str(delivery.get("exchange") or "").endswith("pidbox")


def _tell_downstream(event: Event, message: Message) -> None:
    payload: Any = message.payload
    embed = payload[2] if isinstance(payload, (list, tuple)) and len(payload) == 3 else None
    if isinstance(embed, dict):
        root = message.headers.get("root_id")
        tell_upstream_failed(event, chain=embed.get("chain"), chord=embed.get("chord"), root=root)
