"""A message in the worker's main process: byte for byte, and described where its publisher's word is missing."""

import re
from collections.abc import Mapping
from typing import Any

from celery import Celery
from kombu import Message, serialization

from ..events import Call
from ..exceptions import EnvelopeError
from . import headers as own
from .call import describe, serializer_of, with_envelope, without_envelope
from .envelope import Envelope, of_message


def needs_description(request: Any) -> bool:
    """True where nobody else can tell the whole call: the publisher has not this app, is not sure that its word gets
    through, or was told to use another serializer than the task's, which its signals do not say."""
    headers = request.request_dict
    if headers.get(own.PUBLICATION) is None or headers.get(own.DESCRIBE):
        return True
    serializer = serializer_of(request.task.app, request.task)
    registered: Any = vars(serialization)["registry"]
    return bool(registered.name_to_type.get(serializer) != request.content_type)


def received_call(request: Any) -> Call:
    """The call as the message says it; its arguments are those that Celery has decoded for the task."""
    message, app = request.message, request.task.app
    envelope = envelope_of(app, message)
    fields = describe(
        request.request_dict,
        request.args if isinstance(request.args, (list, tuple)) else (),
        request.kwargs if isinstance(request.kwargs, Mapping) else {},
        task=request.task,
        queue=envelope.queue,
        priority=envelope.properties.get("priority"),
    )
    if "task" not in message.headers:
        return without_envelope(fields, EnvelopeError("a message of protocol 1 can't be sent again"))
    return with_envelope(fields, envelope)


def undelivered_call(app: Celery, message: Message) -> Call:
    """The call of a message that no task here can take. Its body is not decoded."""
    envelope = envelope_of(app, message)
    fields = describe(message.headers, (), {}, task=None, queue=envelope.queue, priority=None)
    return with_envelope(fields, envelope)


def envelope_of(app: Celery, message: Message) -> Envelope:
    delivery: Any = message.delivery_info or {}
    exchange, routing_key = delivery.get("exchange") or "", delivery.get("routing_key") or ""
    return of_message(message, exchange, routing_key, queue_of(app, exchange, routing_key), app.main or "")


def queue_of(app: Celery, exchange: str, routing_key: str) -> str:
    """The name of the declared queue that a message for `exchange` goes to; the routing key where none is known."""
    queues: Any = app.amqp.queues
    for name, queue in queues.items() if exchange else ():
        if queue.exchange and queue.exchange.name == exchange and _matches(queue.routing_key or "", routing_key):
            return str(name)
    return routing_key


def _matches(pattern: str, routing_key: str) -> bool:
    """A binding of a topic exchange: "*" is one word, "#" any number of them."""
    words = re.escape(pattern).replace(r"\*", r"[^.]+").replace(r"\#", ".*")
    return re.fullmatch(words, routing_key) is not None
