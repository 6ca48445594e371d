"""The journal in Redis: each event is an entry of a stream, sent without waiting for the reply.

Replies are read when they are 40 ms old or many, or a moment later by a thread where nothing more is sent. What Redis
has not answered by then, or refuses, goes to the fallback, and so do the events of the next seconds. An event may get
there although Redis had it: rows take repetition.
"""

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, TypeAlias
from weakref import WeakSet

import redis

from ..conf import conf
from ..events import Event
from .base import Journal
from .bounds import is_bad_ending
from .client import Address
from .codec import encode
from .keys import FIELD, Keys

REPLY_SECONDS = 0.04
CONNECT_SECONDS = 5.0
FIRST_CONNECT_WAIT_SECONDS = 0.05
SECONDS_UNTIL_READ = 0.2
MAX_UNREAD = 32  # replies
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LOGS = 60.0
CLAIM_SECONDS = 30 * 24 * 3600
OLDEST_REDIS = (6, 2)
SHARE_OF_EVENTS = 0.75  # of the bytes; bad endings have the rest for themselves

logger = logging.getLogger("django_taskops")

_Heard: TypeAlias = Callable[[object], None]
"""Takes a reply of Redis, or the error that it is."""


class _Stream:
    """One of the two, and whether it had room when it was looked at last."""

    def __init__(self, key: str, share: float) -> None:
        self.key = key.encode()
        self.share = share
        self.looked = -SECONDS_BETWEEN_LOOKS
        self.full = False


class RedisJournal:
    """One connection for each process, made at the first event, and anew after a failure, by a thread that then sees to
    replies that nobody reads. Only the first event of a process waits for it, for at most 50 ms. A forked child closes
    its copy and makes its own.
    """

    def __init__(self, address: Address, fallback: Journal) -> None:
        self.address = address
        self.dropped: Counter[str] = Counter()  # not reported to Redis yet
        self._fallback = fallback
        self._connection: Any = None
        self._renew()
        _journals.add(self)

    def append(self, event: Event) -> None:
        with self._lock:
            left = self._send(event) if not self._busy and self._is_open() else [event]
        for each in left:
            self._fallback.append(each)

    def deferring(self) -> bool:
        with self._lock:
            return not self._is_open() and self._fallback.deferring()

    def flush(self, **_signal: object) -> None:
        self._settle()
        self._fallback.flush()

    def claim(self, key: str, holder: str) -> str:
        """Kept for 30 days. Raises where Redis can't be reached."""
        client = self.address.client(CONNECT_SECONDS)
        name = f"{self._keys().claims}:{key}"
        client.set(name, holder, nx=True, ex=CLAIM_SECONDS)
        held: Any = client.get(name)
        return str(held.decode())

    def _keys(self) -> Keys:
        return Keys.under(self.address.prefix)

    def _renew(self) -> None:
        """What a parent sent is the parent's; its thread and its lock do not survive a fork, its socket is closed."""
        if self._connection is not None:
            self._connection.disconnect()  # redis-py closes a parent's socket without shutting it down
        keys = self._keys()
        self._lock = threading.RLock()  # a signal handler of the project's may publish in the middle of an append
        self._busy = False
        self._connection = None
        self._events = _Stream(keys.events, SHARE_OF_EVENTS)
        self._endings = _Stream(keys.endings, 1 - SHARE_OF_EVENTS)
        self._drops_key = keys.drops.encode()
        self._unconfirmed: deque[Event] = deque()
        self._refused: list[Event] = []
        self._expected: deque[_Heard] = deque()
        self._oldest_sent = 0.0
        self._dialling: threading.Thread | None = None
        self._dialled = threading.Event()
        self._sent = threading.Event()
        self._closed_until = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._logged = -SECONDS_BETWEEN_LOGS
        self.dropped.clear()

    def _is_open(self) -> bool:
        if time.monotonic() < self._closed_until:
            return False
        if self._connection is None:
            self._dial()
        return self._connection is not None

    def _dial(self) -> None:
        first = not self._dialled.is_set()
        if self._dialling is None or not self._dialling.is_alive():
            self._dialling = threading.Thread(target=self._connect, name="taskops-connect", daemon=True)
            try:
                self._dialling.start()
            except RuntimeError:  # at the very end of a process
                self._close("no thread can be started")
                return
        if first:
            self._dialled.wait(FIRST_CONNECT_WAIT_SECONDS)
            self._dialled.set()  # nobody waits twice

    def _connect(self) -> None:
        dialled = self._dialled
        try:
            connection = self._new_connection()
        except Exception as error:  # noqa: BLE001 whatever the driver raises, this thread has no caller
            self._close(error)
        else:
            self._pause = FIRST_PAUSE_SECONDS
            self._connection = connection
            dialled.set()
            self._see_to_replies(connection)
        dialled.set()

    def _see_to_replies(self, connection: Any) -> None:
        """Else the last event before a silence would be lost with a Redis that did not take it."""
        while self._connection is connection:
            self._sent.wait()
            self._sent.clear()
            time.sleep(SECONDS_UNTIL_READ)
            if not self._sent.is_set() and self._connection is connection:
                self._settle()

    def _settle(self) -> None:
        with self._lock:
            left = self._flush() if self._connection is not None and not self._busy else []
        for each in left:
            self._fallback.append(each)

    def _new_connection(self) -> Any:
        pool = self.address.pool(socket_timeout=REPLY_SECONDS, socket_connect_timeout=CONNECT_SECONDS)
        connection: Any = pool.make_connection()
        connection.connect()
        version = _version_of(connection)
        if version < OLDEST_REDIS:
            raise redis.RedisError(f"expected Redis 6.2 or newer, got {'.'.join(map(str, version))}")
        return connection

    def _close(self, error: object) -> None:
        """Lets events pass by for a while, twice as long each time."""
        self._closed_until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        if time.monotonic() - self._logged >= SECONDS_BETWEEN_LOGS:
            self._logged = time.monotonic()
            logger.warning("django-taskops: the journal at %s does not take events: %s", self.address.shown, error)

    def _send(self, event: Event) -> list[Event]:
        """The events that Redis has not taken."""
        self._busy = True
        try:
            self._read_due_replies()
            self._write(event)
        except BaseException as error:
            left = self._break(error)
            left += [event] if event not in left else []
            if isinstance(error, (redis.RedisError, OSError)):
                return left
            for each in left:  # the task's soft time limit struck in here
                self._fallback.append(each)
            raise
        finally:
            self._busy = False
        refused, self._refused = self._refused, []
        return refused

    def _flush(self) -> list[Event]:
        self._busy = True
        try:
            self._read_replies()
            self._report_drops()
            self._read_replies()
        except (redis.RedisError, OSError) as error:
            return self._break(error)
        finally:
            self._busy = False
        refused, self._refused = self._refused, []
        return refused

    def _break(self, error: object) -> list[Event]:
        connection, self._connection = self._connection, None
        connection.disconnect()
        self._sent.set()  # lets its thread go
        left = [*self._refused, *self._unconfirmed]
        self._unconfirmed, self._refused, self._expected = deque(), [], deque()
        self._close(error)
        return left

    def _write(self, event: Event) -> None:
        stream = self._endings if is_bad_ending(event) else self._events
        commands = []
        if not self._expected:
            self._oldest_sent = time.monotonic()
        if stream.full and stream is self._events:
            self.dropped[event.kind] += 1
        elif stream.full:
            self._refused.append(event)
        else:
            commands.append(_packed(b"XADD", stream.key, b"*", FIELD, encode(event)))
            self._unconfirmed.append(event)
            self._expected.append(self._confirm)
        if time.monotonic() - stream.looked >= SECONDS_BETWEEN_LOOKS:
            commands += self._look(stream)
        if commands:
            self._connection.send_packed_command(commands, check_health=False)
            if not self._sent.is_set():  # costs less than to set it again
                self._sent.set()

    def _look(self, stream: _Stream) -> list[bytes]:
        stream.looked = time.monotonic()

        def judge(size: object) -> None:  # an error where an ACL forbids the question
            stream.full = isinstance(size, int) and size > conf.JOURNAL_MAX_BYTES * stream.share

        self._expected.append(judge)
        return [_packed(b"MEMORY", b"USAGE", stream.key), *self._drop_reports()]

    def _drop_reports(self) -> list[bytes]:
        reports = []
        for kind, count in self.dropped.items():
            reports.append(_packed(b"HINCRBY", self._drops_key, kind.encode(), b"%d" % count))
            self._expected.append(lambda reply, kind=kind, count=count: self._reported(reply, kind, count))  # type: ignore[misc]
        return reports

    def _report_drops(self) -> None:
        if reports := self._drop_reports():
            self._connection.send_packed_command(reports, check_health=False)

    def _reported(self, reply: object, kind: str, count: int) -> None:
        if isinstance(reply, int):
            self.dropped[kind] -= count
            self.dropped = +self.dropped

    def _confirm(self, reply: object) -> None:
        event = self._unconfirmed.popleft()
        if isinstance(reply, redis.RedisError):  # full, loading, read-only ...
            self._refused.append(event)
            self._close(reply)
        else:
            self._pause = FIRST_PAUSE_SECONDS

    def _read_due_replies(self) -> None:
        """Waits only where many replies are missing that had no time yet."""
        if not self._expected:
            return
        overdue = time.monotonic() - self._oldest_sent > REPLY_SECONDS
        if overdue and not self._connection.can_read(timeout=0):
            raise redis.TimeoutError(f"no reply within {REPLY_SECONDS} s")
        if overdue or len(self._expected) >= MAX_UNREAD:
            self._read_replies()

    def _read_replies(self) -> None:
        """All that are expected. Each has 40 ms to come."""
        while self._expected:
            try:
                reply = self._connection.read_response()
            except redis.ResponseError as error:
                reply = error
            self._expected.popleft()(reply)


_journals: WeakSet[RedisJournal] = WeakSet()


def _renew_all() -> None:
    for journal in _journals:
        journal._renew()  # noqa: SLF001


os.register_at_fork(after_in_child=_renew_all)


def _version_of(connection: Any) -> tuple[int, ...]:
    """The server's version; the oldest that will do where an ACL forbids the question."""
    connection.send_command("INFO", "server", check_health=False)
    try:
        facts = connection.read_response().decode()
    except redis.ResponseError:
        return OLDEST_REDIS
    version = next((line.partition(":")[2] for line in facts.splitlines() if line.startswith("redis_version:")), "6.2")
    return tuple(int(part) for part in version.split(".")[:2])


def _packed(*arguments: bytes) -> bytes:
    """A command as it goes over the wire."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)
