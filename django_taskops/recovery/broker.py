"""Puts messages on the broker as they are, once, and tells apart what was not sent from what may have been."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Self

from celery import Celery
from celery.app.amqp import Queues
from kombu import Connection, Producer, Queue

from ..capture.envelope import Envelope

TIMEOUT_SECONDS = 5.0
RABBITMQ = "amqp"

_OPTIONS = {
    "redis": {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "retry_on_timeout": False,  # it would push the message again
    },
    RABBITMQ: {
        "read_timeout": TIMEOUT_SECONDS,
        "write_timeout": TIMEOUT_SECONDS,
        "confirm_publish": True,  # without it, nobody waits for the broker to take the message
    },
}


class Unconfirmed(Exception):
    """The broker did not answer after the message was on its way: it may have it."""


class Unreachable(Exception):
    """There is no connection to be had: other messages would fare no better."""


def publish(app: Celery, envelope: Envelope, *, declare_unknown: bool = False) -> None:
    """`Publisher.publish` for one message."""
    with Publisher() as publisher:
        publisher.publish(app, envelope, declare_unknown=declare_unknown)


class Publisher:
    """For as long as its `with` block lasts, one connection to the broker of each app; a new one after an error. A
    broker that can't be reached is not tried again."""

    def __init__(self) -> None:
        self._lines: dict[Celery, tuple[ExitStack, _Line]] = {}
        self._unreachable: dict[Celery, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for app in list(self._lines):
            self._hang_up(app)

    def publish(self, app: Celery, envelope: Envelope, *, declare_unknown: bool = False) -> None:
        """Raises Unconfirmed where nobody can tell; any other exception means that the broker does not have the
        message, and Unreachable that it would not have any.

        The body goes out byte for byte. A queue that the project declares is declared as it says, and so is one that
        Celery would create by itself; `declare_unknown` declares any other as a plain one. RabbitMQ's queues that are
        there and that the project does not declare are left as they are.
        """
        line = self._line(app)
        try:
            line.declare(envelope, unknown=declare_unknown)
            line.publish(envelope)
        except BaseException:
            self._hang_up(app)
            raise

    @property
    def is_cut_off(self) -> bool:
        """True where a broker could not be reached."""
        return bool(self._unreachable)

    def _line(self, app: Celery) -> "_Line":
        if app in self._unreachable:
            raise Unreachable(self._unreachable[app])
        if app not in self._lines:
            stack = ExitStack()
            try:
                connection = stack.enter_context(_connection(app))
                self._lines[app] = stack, _Line(app, connection)
            except Exception as error:
                stack.close()
                self._unreachable[app] = repr(error)
                raise Unreachable(repr(error)) from error
        return self._lines[app][1]

    def _hang_up(self, app: Celery) -> None:
        stack, _line = self._lines.pop(app)
        stack.close()


class _Line:
    def __init__(self, app: Celery, connection: Connection) -> None:
        self._app = app
        self._connection = connection
        self._producer = Producer(_channel(connection))
        self._declared: set[tuple[str, str]] = set()

    def declare(self, envelope: Envelope, *, unknown: bool) -> None:
        route = envelope.exchange, envelope.queue
        if route not in self._declared:
            if queue := _missing(self._app, self._connection, envelope, unknown=unknown):
                self._producer.maybe_declare(queue)
            self._declared.add(route)

    def publish(self, envelope: Envelope) -> None:
        try:
            self._producer.publish(
                envelope.body,
                exchange=envelope.exchange,
                routing_key=envelope.routing_key,
                content_type=envelope.content_type,
                content_encoding=envelope.content_encoding,
                compression=envelope.compression or None,
                headers=dict(envelope.headers),
                mandatory=True,  # RabbitMQ drops in silence what no queue takes
                **envelope.properties,
            )
        except _unclear(self._connection) as error:
            raise Unconfirmed(str(error)) from error


def _channel(connection: Connection) -> Any:
    """kombu makes a new client of Redis for each message, which takes as long as the message itself."""
    channel: Any = connection.channel()
    if connection.transport.driver_type == "redis":
        client = channel._create_client()  # noqa: SLF001 the one that it would make each time
        channel.conn_or_acquire = lambda *_args, **_kwargs: nullcontext(client)
    return channel


@contextmanager
def read_connection(app: Celery) -> Iterator[Connection]:
    """To where workers read, with a limit of five seconds for each answer. Raises where it can't be reached."""
    with _opened(app.connection_for_read(connect_timeout=TIMEOUT_SECONDS)) as connection:
        yield connection


@contextmanager
def _connection(app: Celery) -> Iterator[Connection]:
    """A new one, since one of a pool may have died unnoticed and would have to be tried twice."""
    with _opened(app.connection_for_write(connect_timeout=TIMEOUT_SECONDS)) as connection:
        yield connection


@contextmanager
def _opened(connection: Connection) -> Iterator[Connection]:
    options = _OPTIONS.get(connection.transport.driver_type, {})
    connection.transport_options = {**(connection.transport_options or {}), **options}
    with connection:
        connection.ensure_connection(max_retries=1, interval_start=0)
        yield connection


def _unclear(connection: Connection) -> tuple[type[BaseException], ...]:
    """The errors after which nobody knows what has arrived. RabbitMQ closes a channel over what it has not taken."""
    if connection.transport.driver_type == RABBITMQ:
        return tuple(connection.connection_errors)
    return (*connection.connection_errors, *connection.channel_errors)


def _missing(app: Celery, connection: Connection, envelope: Envelope, *, unknown: bool) -> Queue | None:
    """The queue to declare before the message is sent, None where nobody here knows one, or it is there."""
    queues: Any = app.amqp.queues
    name = envelope.queue
    if name in queues:
        declared: Queue = queues[name]
        return declared
    if envelope.exchange or _exists(connection, name):
        return None
    if queues.create_missing:
        # Completed as Celery would do it, and not kept: before Celery 5.7 a worker would read it after a reconnect.
        unkept: Any = Queues(max_priority=queues.max_priority)
        completed: Queue = unkept.add(queues.new_missing(name))
        return completed
    return Queue(name, exchange="", routing_key=name) if unknown else None


def _exists(connection: Connection, name: str) -> bool:
    """Asked of RabbitMQ alone, which refuses to declare a queue again with other arguments than its owner's."""
    if connection.transport.driver_type != RABBITMQ:
        return False
    channel: Any = connection.channel()
    try:
        channel.queue_declare(name, passive=True)
    except connection.channel_errors:
        return False
    channel.close()
    return True
