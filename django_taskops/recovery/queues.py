"""What waits in the broker's queues. Consumes nothing, declares nothing, and raises for no broker that is down."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from celery import Celery, current_app
from django.db.models import DateTimeField, Min, Q
from django.db.models.functions import Coalesce
from django.utils import timezone
from kombu import Connection
from kombu.exceptions import OperationalError

from ..conf import conf
from ..models import TaskRun
from ..states import TaskState
from .broker import RABBITMQ
from .workers import SeenWorker

TIMEOUT_SECONDS = 1
FRESH_SECONDS = 5.0
MAX_NAMES = 100
MAX_WAITING = 10_000  # runs among which the oldest of each queue is looked for
MAX_SAMPLE = 1_000
MAX_ERROR_CHARS = 300
REDIS = "redis"

ABSENT = "absent"
UNREACHABLE = "unreachable"
UNASKED = "unasked"

_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    REDIS: {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "retry_on_timeout": False,
        "max_connections": 2,
    },
    RABBITMQ: {"read_timeout": TIMEOUT_SECONDS, "write_timeout": TIMEOUT_SECONDS},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLook:
    """`depth` is how many messages wait, None where that is not known; `code` then says why: "absent" (RabbitMQ has no
    such queue), "unreachable" (`error` has the words of the client), "unasked" (neither Redis nor RabbitMQ).

    `consumers` is RabbitMQ's own count, None elsewhere. `oldest_at` is since when the oldest run of this queue that
    nobody has received has been due, by our table.
    """

    name: str
    depth: int | None = None
    consumers: int | None = None
    oldest_at: datetime | None = None
    code: str = ""
    error: str = ""


def look(names: Sequence[str]) -> list[QueueLook]:
    """Asks the broker over one connection, and our table with one query. Neither without names."""
    if not names:
        return []
    found = _ask_broker(names)
    oldest = _oldest(names)
    return [replace(queue, oldest_at=oldest[queue.name]) for queue in found]


def recent(names: Sequence[str]) -> list[QueueLook]:
    """The same, at most five seconds old: for pages. A broker that did not answer is left alone for as long."""
    now = time.monotonic()
    kept = {name: queue for (alias, name), (until, queue) in list(_recent.items()) if _is_kept(alias, until, now)}
    missing = [name for name in names if name not in kept]
    if missing and _down and _down[0][0] > now:
        return [kept.get(name) or replace(_down[0][1], name=name) for name in names]
    for queue in look(missing):
        kept[queue.name] = queue
        _recent[conf.DATABASE, queue.name] = (now + FRESH_SECONDS, queue)
        if queue.code == UNREACHABLE:
            _down[:] = [(now + FRESH_SECONDS, replace(queue, oldest_at=None))]
    _forget_before(now)
    return [kept[name] for name in names]


def forget() -> None:
    """Lets the next one to ask see everything afresh."""
    _recent.clear()
    _down.clear()


def known_names(workers: Iterable[SeenWorker]) -> list[str]:
    """What live ones of these workers read, what this process' app declares, and where runs wait that nobody has
    received: a name that is spelled wrong is only there. One query."""
    read = [name for worker in workers if worker.alive for name in worker.queues]
    declared: Any = current_app.amqp.queues
    names = dict.fromkeys([*(queue for queue, _task in waiting()), *read, *declared])
    return sorted([name for name in names if name][:MAX_NAMES])


def waiting() -> list[tuple[str, str]]:
    """Queue and task of the newest runs that nobody has received."""
    return list(_pending().order_by("-pk").values_list("queue", "task_name")[:MAX_SAMPLE])


def unacknowledged() -> int | None:
    """How many messages of all queues workers have fetched and not acknowledged; None where nobody can tell."""
    try:
        with _connection(current_app) as connection:
            if connection.transport.driver_type != REDIS:
                return None
            channel: Any = connection.channel()
            with channel.conn_or_acquire() as client:
                return int(client.hlen(channel.unacked_key))
    except Exception:  # noqa: BLE001 a client library may raise anything
        return None


_recent: dict[tuple[str, str], tuple[float, QueueLook]] = {}
_down: list[tuple[float, QueueLook]] = []


def _is_kept(alias: str, until: float, now: float) -> bool:
    return alias == conf.DATABASE and until > now


def _forget_before(now: float) -> None:
    for key, (until, _queue) in list(_recent.items()):
        if until <= now:
            _recent.pop(key, None)


def _ask_broker(names: Sequence[str]) -> list[QueueLook]:
    try:
        with _connection(current_app) as connection:
            ask = _ASKED.get(connection.transport.driver_type)
            if ask is None:
                return [QueueLook(name=name, code=UNASKED) for name in names]
            return ask(connection, names)
    except Exception as error:  # noqa: BLE001 a client library may raise anything; people are told
        told = _told(error)
        return [QueueLook(name=name, code=UNREACHABLE, error=told) for name in names]


@contextmanager
def _connection(app: Celery) -> Iterator[Connection]:
    """To the broker that workers read. Connected only where it can be asked."""
    connection: Connection = app.connection_for_read(connect_timeout=TIMEOUT_SECONDS)
    options = _OPTIONS.get(connection.transport.driver_type)
    with connection:
        if options is not None:
            connection.transport_options = {**(connection.transport_options or {}), **options}
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=TIMEOUT_SECONDS)
        yield connection


def _ask_redis(connection: Connection, names: Sequence[str]) -> list[QueueLook]:
    """A queue is a list for each step of priority, and is there only while it holds something."""
    channel: Any = connection.channel()
    steps = channel.priority_steps
    with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
        for name in names:
            for step in steps:
                pipe.llen(channel._q_for_pri(name, step))  # noqa: SLF001 kombu's own name of the list
        answers = pipe.execute(raise_on_error=False)  # a key of another type would be somebody else's
    lengths = [answer if isinstance(answer, int) else 0 for answer in answers]
    parts = [lengths[start : start + len(steps)] for start in range(0, len(lengths), len(steps))]
    return [QueueLook(name=name, depth=sum(part)) for name, part in zip(names, parts, strict=True)]


def _ask_rabbitmq(connection: Connection, names: Sequence[str]) -> list[QueueLook]:
    return [_declared(connection, name) for name in names]


def _declared(connection: Connection, name: str) -> QueueLook:
    """By a channel of its own: RabbitMQ closes it where there is no such queue."""
    channel: Any = connection.channel()
    try:
        _name, depth, consumers = channel.queue_declare(name, passive=True)
    except connection.channel_errors as error:
        return QueueLook(name=name, code=ABSENT, error=_told(error))
    channel.close()
    return QueueLook(name=name, depth=depth, consumers=consumers)


_ASKED = {REDIS: _ask_redis, RABBITMQ: _ask_rabbitmq}


def _told(error: BaseException) -> str:
    """Without what stands before the @ of an address. An address that can't be read may be quoted in any way."""
    if not isinstance(error, (OSError, OperationalError)) and not _is_of_client(error):
        return type(error).__name__
    return re.sub(r"//\S*@", "//", f"{type(error).__name__}: {error}")[:MAX_ERROR_CHARS]


def _is_of_client(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in ("amqp", "redis")


def _oldest(names: Sequence[str]) -> dict[str, datetime | None]:
    """Of those whose time has come, among the first that were published."""
    due = _pending().filter(Q(eta=None) | Q(eta__lte=timezone.now())).order_by("pk")
    due = due.annotate(due_at=Coalesce("eta", "enqueued_at", output_field=DateTimeField()))[:MAX_WAITING]
    found = due.aggregate(**{f"of_{place}": Min("due_at", filter=Q(queue=name)) for place, name in enumerate(names)})
    return {name: found[f"of_{place}"] for place, name in enumerate(names)}


def _pending() -> Any:
    """By the index of what has not succeeded, whose condition has to be named."""
    return TaskRun.objects.filter(~Q(state=TaskState.SUCCESS), state=TaskState.PENDING)
