"""A connection to Redis on which nobody waits: commands are sent, and replies are heard when they are there."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import redis

from .client import Address

CONNECT_SECONDS = 5.0
REPLY_SECONDS = 0.04
OLDEST_REDIS = (6, 2)

Heard: TypeAlias = Callable[[object], None]
"""Takes a reply of Redis, or the error that it is."""


class Wire:
    """For one thread at a time. Anything that it raises leaves it unusable; what was under way may have arrived."""

    def __init__(self, address: Address) -> None:
        """Connects, and takes its time for it. Raises RedisError, also for a Redis that is too old."""
        pool = address.pool(socket_timeout=CONNECT_SECONDS, socket_connect_timeout=CONNECT_SECONDS)
        self._connection: Any = pool.make_connection()
        self._expected: deque[tuple[float, Heard]] = deque()
        self._connection.connect()
        version = _version_of(self._connection)
        if version < OLDEST_REDIS:
            self.close()
            raise redis.RedisError(f"expected Redis 6.2 or newer, got {'.'.join(map(str, version))}")
        _limit(self._connection, REPLY_SECONDS)

    @property
    def expects(self) -> int:
        """How many replies have not been heard."""
        return len(self._expected)

    def is_due(self) -> bool:
        """True where the oldest reply should be there by now."""
        return bool(self._expected) and time.monotonic() - self._expected[0][0] > REPLY_SECONDS

    def send(self, commands: Sequence[bytes], heard: Sequence[Heard]) -> None:
        """Packed commands, each with what takes its reply. Blocks for 40 ms at most."""
        if not self._expected:
            self._connection.can_read(timeout=0)  # raises where Redis has hung up: the system would take it in silence
        now = time.monotonic()
        self._expected.extend((now, each) for each in heard)
        self._connection.send_packed_command([b"".join(commands)], check_health=False)

    def hear(self) -> None:
        """Takes the replies that are there. Raises TimeoutError where the oldest should be and is not. Blocks for 40 ms
        at most, for the rest of a reply."""
        while self._expected and self._connection.can_read(timeout=0):
            self._take()
        if self.is_due():
            raise redis.TimeoutError(f"no reply within {REPLY_SECONDS} s")

    def ask(self, commands: Sequence[bytes]) -> Sequence[object] | None:
        """Waits for the replies to these, errors among them; None where they are not there after 40 ms: they are heard
        later, and mean nothing any more."""
        replies: list[object] = []
        self.send(commands, [replies.append] * len(commands))
        deadline = time.monotonic() + REPLY_SECONDS
        while len(replies) < len(commands):
            if not self._connection.can_read(timeout=max(0.0, deadline - time.monotonic())):
                return None
            self._take()
        return replies

    def _take(self) -> None:
        """The next reply. Raises that of a replica, once it is heard: after a failover its name leads to the master."""
        try:
            reply = self._connection.read_response()
        except redis.ResponseError as error:
            reply = error
        self._expected.popleft()[1](reply)
        if isinstance(reply, redis.ReadOnlyError):
            raise reply

    def close(self) -> None:
        """In a forked child too: redis-py closes a parent's socket without shutting it down."""
        self._connection.disconnect()


def packed(*arguments: bytes) -> bytes:
    """A command as it goes over the wire."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


def _version_of(connection: Any) -> tuple[int, ...]:
    """The server's version; the oldest that will do where an ACL forbids the question."""
    connection.send_command("INFO", "server", check_health=False)
    try:
        facts = connection.read_response().decode()
    except redis.ResponseError:
        return OLDEST_REDIS
    version = next((line.partition(":")[2] for line in facts.splitlines() if line.startswith("redis_version:")), "6.2")
    return tuple(int(part) for part in version.split(".")[:2])


def _limit(connection: Any, seconds: float) -> None:
    """redis-py has one timeout for all, the handshake too, and its parser goes back to the one that it was given when
    the connection was made: it is given the connection anew."""
    connection.socket_timeout = seconds
    connection._sock.settimeout(seconds)  # noqa: SLF001
    connection._parser.on_connect(connection)  # noqa: SLF001
