"""Is a message still in the broker? Says so only where it can be known: what can't be looked at may well be there."""

import time
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import redis
from celery import Celery
from kombu import Connection
from kombu.utils.json import loads

from ..broker import RABBITMQ, read_connection
from ..message import JSON_TYPE

CHUNK = 200
MAX_QUEUES = 500
MAX_MESSAGES = 50_000  # read in one look; where there are more, nothing is held to be missing
REDIS = "redis"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Where a message was sent to. `exchange` is "" for the broker's default one."""

    queue: str
    exchange: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What workers say: the ids of the tasks that they hold, all of them where it is `whole`; and the names of the
    queues that are known."""

    held: frozenset[str]
    queues: frozenset[str]
    whole: bool = True


class Search(Protocol):
    """One for each kind of broker that can be asked. Keeps what it has seen from look to look."""

    def look(self, queues: Collection[str]) -> None:
        """Notes how things stand, for evidence that takes time. Raises what the broker's client raises."""

    def missing(self, sent: Mapping[str, Sent], seen: Seen, seconds: float) -> set[str]:
        """Which of these task ids neither the broker nor a worker has any more, for certain. `seconds` is for how long
        evidence that takes time must have held. Raises what the broker's client raises."""


def search_of(app: Celery) -> Search | None:
    """None for a broker that can't be asked."""
    with app.connection_for_read() as connection:
        kind = connection.transport.driver_type
    if kind == REDIS:
        return RedisSearch(app)
    return RabbitSearch(app) if kind == RABBITMQ else None


class RedisSearch:
    """Reads the queues' lists and the hash of what is delivered and not acknowledged."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def look(self, queues: Collection[str]) -> None:
        """Nothing: what is there can be read at any time."""

    def missing(self, sent: Mapping[str, Sent], seen: Seen, seconds: float) -> set[str]:  # noqa: ARG002
        with read_connection(self._app) as connection:
            channel: Any = connection.channel()
            names = {*seen.queues, *(each.queue for each in sent.values())}
            names |= _bound(channel, {each.exchange for each in sent.values()} - {""})
            client = redis.Redis(connection_pool=channel.pool)  # kombu's own adds its prefix to some commands only
            found = _Found(set(sent) - seen.held, sent)
            for name in names:
                found.look_at_queue(client, name, [_key(channel, name, step) for step in channel.priority_steps])
            found.look_at_unacknowledged(client, f"{channel.global_keyprefix}{channel.unacked_key}")
            return found.missing


@dataclass(slots=True)
class _Found:
    """What is still missing, while the broker is looked through: the queues first. What is fetched meanwhile is then
    found among the unacknowledged. What goes the other way is missed: so one look is no proof."""

    missing: set[str]
    sent: Mapping[str, Sent]

    def look_at_queue(self, client: Any, queue: str, keys: Iterable[str]) -> None:
        """One that is too long, or holds what can't be told, hides what was sent to it."""
        if not self.missing:
            return
        try:
            lists = list(keys)
            if sum(client.llen(key) for key in lists) > MAX_MESSAGES:
                self._give_up(queue)
                return
            for key in lists:
                for message in _messages(client, key):
                    self._see(message, queue)
        except redis.ResponseError:  # another kind of key
            self._give_up(queue)

    def look_at_unacknowledged(self, client: Any, key: str) -> None:
        if client.hlen(key) > MAX_MESSAGES:
            self.missing.clear()
        for _tag, raw in client.hscan_iter(key, count=CHUNK) if self.missing else ():
            message, _exchange, routing_key = loads(raw)
            self._see(message, str(routing_key))

    def _see(self, message: Any, queue: str) -> None:
        task_id = _id_of(message)
        if task_id is None:
            self._give_up(queue)
        else:
            self.missing.discard(task_id)

    def _give_up(self, queue: str) -> None:
        self.missing -= {task_id for task_id in self.missing if self.sent[task_id].queue == queue}


def _key(channel: Any, queue: str, step: int) -> str:
    return f"{channel.global_keyprefix}{channel._q_for_pri(queue, step)}"  # noqa: SLF001


def _bound(channel: Any, exchanges: Iterable[str]) -> set[str]:
    """The queues that messages for these exchanges can have gone to."""
    return {binding[2] for exchange in exchanges for binding in channel.get_table(exchange)}


def _messages(client: Any, key: str) -> Iterator[Any]:
    start = 0
    while raws := client.lrange(key, start, start + CHUNK - 1):
        yield from map(loads, raws)
        start += CHUNK


def _id_of(message: Any) -> str | None:
    """ "" for what is no task; None where nobody can tell."""
    if not isinstance(message, dict):
        return None
    headers = message.get("headers")
    if isinstance(headers, dict) and "task" in headers:
        return str(headers.get("id") or "")
    if message.get("content-type") != JSON_TYPE:
        return None  # it may be a task of protocol 1
    try:
        body = loads(b64decode(message["body"]))
    except (ValueError, KeyError, TypeError):
        return ""
    return str(body.get("id") or "") if isinstance(body, dict) else ""


@dataclass(slots=True)
class RabbitSearch:
    """RabbitMQ shows no messages, only how many wait: a queue that was empty at each look, while somebody read it, does
    not have the message."""

    app: Celery
    clock: Callable[[], float] = time.monotonic
    _empty: dict[str, float] = field(default_factory=dict)

    def look(self, queues: Collection[str]) -> None:
        now = self.clock()
        with read_connection(self.app) as connection:
            for name in {*queues, *self._empty}:
                if _is_drained(connection, name):
                    self._empty.setdefault(name, now)
                else:
                    self._empty.pop(name, None)
        if len(self._empty) > MAX_QUEUES:
            self._empty.clear()

    def missing(self, sent: Mapping[str, Sent], seen: Seen, seconds: float) -> set[str]:
        self.look({*seen.queues, *(each.queue for each in sent.values())})
        if not seen.whole:
            return set()
        with read_connection(self.app) as connection:
            exchanges = {each.exchange for each in sent.values()} - {""}
            gone = {name for name in exchanges if not _exists(connection, "exchange_declare", name)}
        declared: Any = self.app.amqp.queues
        queues = {*seen.queues, *declared}
        ours = {"", *(queue.exchange.name for queue in declared.values() if queue.exchange)}

        def is_missing(each: Sent) -> bool:
            leads_there = each.exchange in ours or each.queue in queues  # a foreign exchange may lead anywhere
            return each.exchange in gone or (leads_there and self._was_empty(each.queue, seconds))

        return {task_id for task_id, each in sent.items() if task_id not in seen.held and is_missing(each)}

    def _was_empty(self, queue: str, seconds: float) -> bool:
        since = self._empty.get(queue)
        return since is not None and self.clock() - since >= seconds


def _is_drained(connection: Connection, queue: str) -> bool:
    """True where it is empty and read, or not there at all."""
    found = _exists(connection, "queue_declare", queue)
    return not found or (found.message_count == 0 and found.consumer_count > 0)


def _exists(connection: Connection, declare: str, name: str) -> Any:
    """What a passive declaration tells; None where there is no such thing. It closes its channel then."""
    channel: Any = connection.channel()
    try:
        arguments = (name,) if declare == "queue_declare" else (name, "direct")
        found = getattr(channel, declare)(*arguments, passive=True)
    except connection.channel_errors as error:
        if getattr(error, "reply_code", None) != 404:
            raise
        return None
    channel.close()
    return found or True
