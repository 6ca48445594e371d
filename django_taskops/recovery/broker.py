"""Puts a message on the broker as it is, once, and tells apart what was not sent from what may have been."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu import Connection, Producer, Queue

from ..capture.envelope import Envelope

TIMEOUT_SECONDS = 5.0

_TIMEOUTS = {
    "redis": {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "retry_on_timeout": False,  # it would push the message again
    },
    "amqp": {"read_timeout": TIMEOUT_SECONDS, "write_timeout": TIMEOUT_SECONDS},
}


class Unconfirmed(Exception):
    """The broker did not answer after the message was on its way: it may have it."""


def publish(app: Celery, envelope: Envelope, *, declare_unknown: bool = False) -> None:
    """Raises Unconfirmed where nobody can tell; any other exception means that the broker does not have the message.

    The body goes out byte for byte. A queue that the project declares is declared as it says, and so is one that
    Celery would create by itself; `declare_unknown` declares any other as a plain one.
    """
    with _channel(app) as (producer, unclear):
        try:
            producer.publish(
                envelope.body,
                exchange=envelope.exchange,
                routing_key=envelope.routing_key,
                content_type=envelope.content_type,
                content_encoding=envelope.content_encoding,
                compression=envelope.compression or None,
                headers=dict(envelope.headers),
                declare=_declared(app, envelope, unknown=declare_unknown),
                **envelope.properties,
            )
        except unclear as error:
            raise Unconfirmed(str(error)) from error


@contextmanager
def _channel(app: Celery) -> Iterator[tuple[Producer, tuple[type[BaseException], ...]]]:
    """A producer on a new connection, since one of a pool may have died unnoticed and would have to be tried twice;
    and the errors after which nobody knows what has arrived."""
    connection: Connection = app.connection_for_write(connect_timeout=TIMEOUT_SECONDS)
    timeouts = _TIMEOUTS.get(connection.transport.driver_type, {})
    connection.transport_options = {**(connection.transport_options or {}), **timeouts}
    with connection:
        connection.ensure_connection(max_retries=1, interval_start=0)
        yield Producer(connection.channel()), (*connection.connection_errors, *connection.channel_errors)


def _declared(app: Celery, envelope: Envelope, *, unknown: bool) -> list[Queue]:
    queues: Any = app.amqp.queues
    name = envelope.queue
    if name in queues:
        return [queues[name]]
    if envelope.exchange:
        return []
    if queues.create_missing:
        return [queues.new_missing(name)]
    return [Queue(name, exchange="", routing_key=name)] if unknown else []
