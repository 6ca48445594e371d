"""The journal in Redis: each event is an entry of a stream, sent without waiting for the reply.

Replies are heard when they are 40 ms old or many, or a moment later by a thread where nothing more is sent. What Redis
has not answered by then, or refuses, goes to the fallback, and so do the events of the next seconds. An event may get
there although Redis had it: rows take repetition.
"""

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakSet

import redis

from ..conf import conf
from ..events import Beat, Record
from . import forks
from .base import Journal
from .bounds import is_bad_ending
from .client import Address
from .codec import encode
from .keys import FIELD, Keys
from .wire import CONNECT_SECONDS, REPLY_SECONDS, Heard, Wire, packed

FIRST_CONNECT_WAIT_SECONDS = 0.05
SECONDS_UNTIL_HEARD = 0.2
FLUSH_SECONDS = 1.0
GLANCE_SECONDS = 0.15
SECONDS_MUTE = 1.0
MAX_UNHEARD = 32  # replies, before the next append looks for them
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LOGS = 60.0
CLAIM_SECONDS = 30 * 24 * 3600
SHARE_OF_EVENTS = 0.75  # of the bytes; bad endings have the rest for themselves

logger = logging.getLogger("django_taskops")

_Command: TypeAlias = tuple[bytes, ...]


class _Stream:
    """One of the two, and whether it had room when it was looked at last."""

    def __init__(self, key: str, share: float) -> None:
        self.key = key.encode()
        self.share = share
        self.looked = -SECONDS_BETWEEN_LOOKS
        self.full = False


class RedisJournal:
    """One connection for each process, made at the first event, and anew after a failure, by a thread that then sees to
    replies that nobody hears. Only the first event of a process waits for it, for at most 50 ms. A forked child closes
    its copy and makes its own.
    """

    def __init__(self, address: Address, fallback: Journal) -> None:
        self.address = address
        self.dropped: Counter[str] = Counter()  # not reported to Redis yet
        self._fallback = fallback
        self._wire: Wire | None = None
        self._renew()
        _journals.add(self)

    def append(self, event: Record) -> None:
        if self._pid != os.getpid():  # forked by what does not tell Python, such as uWSGI
            self._renew()
        with self._lock:
            left = [event] if self._busy else self._send(event)
        self._give_up(left, event)

    def append_later(self, event: Record) -> None:
        self.append(event)

    def deferring(self) -> bool:
        if self._pid != os.getpid():
            self._renew()
        with self._lock:
            return (self._busy or not self._is_open()) and self._fallback.deferring()

    def prepare(self) -> None:
        if self._pid != os.getpid():
            self._renew()
        with self._lock:
            self._is_open()

    def flush(self, **_signal: object) -> None:
        deadline = time.monotonic() + FLUSH_SECONDS
        self._settle()
        while self._wire is not None and self._wire.expects and time.monotonic() < deadline:
            time.sleep(REPLY_SECONDS / 10)
            self._settle()
        self._fallback.flush()

    def claim(self, key: str, holder: str) -> str:
        """Kept for 30 days. Raises where Redis does not answer within 0.2 s or has not answered just now."""
        *_claimed, held = self._replies(*self._claim(key, holder))
        return _text(held)

    def claim_beside(self, other: str, key: str, holder: str) -> tuple[str, str]:
        """As `claim`."""
        held_other, _claimed, held = self._replies(self._get(other), *self._claim(key, holder))
        return _text(held_other), _text(held)

    def claim_all(self, claims: Mapping[str, str]) -> None:
        """Kept for 30 days. Raises where Redis can't be reached."""
        prefix = self._keys().claims
        with self.address.glance(CONNECT_SECONDS) as client, client.pipeline(transaction=False) as pipe:
            for key, holder in claims.items():
                pipe.set(f"{prefix}:{key}", holder, nx=True, ex=CLAIM_SECONDS)
            pipe.execute()

    def holder(self, key: str) -> str:
        """Raises where Redis does not answer within 0.2 s or has not answered just now."""
        (held,) = self._replies(self._get(key))
        return _text(held)

    def _claim(self, key: str, holder: str) -> tuple[_Command, _Command]:
        taken = (b"SET", self._claimed(key), holder.encode(), b"NX", b"EX", b"%d" % CLAIM_SECONDS)
        return taken, self._get(key)

    def _get(self, key: str) -> _Command:
        return b"GET", self._claimed(key)

    def _claimed(self, key: str) -> bytes:
        return f"{self._keys().claims}:{key}".encode()

    def _replies(self, *commands: _Command) -> Sequence[object]:
        """In one exchange. Raises where Redis does not answer within 0.2 s, or refuses one of them."""
        replies = self._ask(*(packed(*command) for command in commands))
        if replies is not None:
            return replies
        with self._question() as client, client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            return list(pipe.execute())

    def _keys(self) -> Keys:
        return Keys.under(self.address.prefix)

    def _renew(self) -> None:
        """What a parent sent is the parent's; its thread and its lock do not survive a fork, its socket is closed."""
        if self._wire is not None:
            self._wire.close()
        keys = self._keys()
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler of the project's may publish in the middle of an append
        self._busy = False
        self._wire = None
        self._events = _Stream(keys.events, SHARE_OF_EVENTS)
        self._endings = _Stream(keys.endings, 1 - SHARE_OF_EVENTS)
        self._drops_key = keys.drops.encode()
        self._unconfirmed: deque[Record] = deque()
        self._refused: list[Record] = []
        self._dialling: threading.Thread | None = None
        self._dialled = threading.Event()
        self._sent = threading.Event()
        self._closed_until = 0.0
        self._mute_until = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._logged = -SECONDS_BETWEEN_LOGS
        self.dropped.clear()

    @contextmanager
    def _question(self) -> Iterator[redis.Redis]:
        """A client for it. Where one was not answered just now, the next is not asked: a task waits once."""
        if time.monotonic() < self._mute_until:
            raise redis.TimeoutError(f"no answer a moment ago, not asked for {SECONDS_MUTE:g} s")
        try:
            with self.address.glance(GLANCE_SECONDS) as client:
                yield client
        except (redis.ConnectionError, redis.TimeoutError):
            self._mute_until = time.monotonic() + SECONDS_MUTE
            raise

    def _ask(self, *commands: bytes) -> Sequence[object] | None:
        """The replies, over the connection that is there: to make one takes longer than to ask. None where there is
        none, or where it takes too long. Raises what Redis refuses."""
        if self._pid != os.getpid():
            self._renew()
        replies: Sequence[object] | None = None
        left: Sequence[Record] = ()
        with self._lock:
            if self._busy or self._wire is None:
                return None
            self._busy = True
            try:
                replies = self._wire.ask(commands)
            except BaseException as error:
                left = self._break(error)
                if not isinstance(error, (redis.RedisError, OSError)):
                    self._give_up(left)  # the task's soft time limit struck in here
                    raise
            finally:
                self._busy = False
        self._give_up(left)
        for reply in replies or ():
            if isinstance(reply, redis.RedisError):
                raise reply
        return replies

    def _is_open(self) -> bool:
        if time.monotonic() < self._closed_until:
            return False
        if self._wire is None:
            self._dial()
        return self._wire is not None

    def _dial(self) -> None:
        first = not self._dialled.is_set()
        if self._dialling is None or not self._dialling.is_alive():
            thread = threading.Thread(target=self._connect, name="taskops-connect", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # at the very end of a process
                self._close("no thread can be started")
                return
            self._dialling = thread
        if first:
            self._dialled.wait(FIRST_CONNECT_WAIT_SECONDS)
            self._dialled.set()  # nobody waits twice

    def _connect(self) -> None:
        dialled = self._dialled
        try:
            with forks.kept_away():
                wire = Wire(self.address)
        except Exception as error:  # noqa: BLE001 whatever the driver raises, this thread has no caller
            self._close(error)
        else:
            self._pause = FIRST_PAUSE_SECONDS
            self._wire = wire
            dialled.set()
            self._see_to_replies(wire)
        dialled.set()

    def _see_to_replies(self, wire: Wire) -> None:
        """Else the last event before a silence would be lost with a Redis that did not take it."""
        while self._wire is wire:
            self._sent.wait()
            self._sent.clear()
            time.sleep(SECONDS_UNTIL_HEARD)
            if not self._sent.is_set() and self._wire is wire:
                with forks.kept_away():
                    self._settle()

    def _close(self, error: object) -> None:
        """Lets events pass by for a while, twice as long each time."""
        self._closed_until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        if time.monotonic() - self._logged >= SECONDS_BETWEEN_LOGS:
            self._logged = time.monotonic()
            logger.warning("django-taskops: the journal at %s does not take events: %s", self.address.shown, error)

    def _send(self, event: Record) -> Sequence[Record]:
        """The events that Redis has not taken."""
        self._busy = True
        try:
            if not self._is_open() or self._wire is None:
                return [event]
            if self._wire.expects >= MAX_UNHEARD or self._wire.is_due():
                self._wire.hear()
            self._write(self._wire, event)
        except BaseException as error:
            left = self._break(error)
            left += [] if any(each is event for each in left) else [event]
            if isinstance(error, (redis.RedisError, OSError)):
                return left
            self._give_up(left, event)  # the task's soft time limit struck in here
            raise
        finally:
            self._busy = False
        return self._take_refused()

    def _settle(self) -> None:
        """Hears what is there, and tells Redis what was dropped."""
        with self._lock:
            if self._wire is None or self._busy:
                return
            self._busy = True
            try:
                self._wire.hear()
                if reports := self._drop_reports():
                    self._wire.send(*zip(*reports, strict=True))
                left = self._take_refused()
            except (redis.RedisError, OSError) as error:
                left = self._break(error)
            finally:
                self._busy = False
        self._give_up(left)

    def _give_up(self, events: Sequence[Record], new: Record | None = None) -> None:
        """Only an event that is given just now may go on its caller's time, and in its caller's transaction."""
        for each in events:
            if each is new:
                self._fallback.append(each)
            else:
                self._fallback.append_later(each)

    def _take_refused(self) -> list[Record]:
        refused, self._refused = self._refused, []
        return refused

    def _break(self, error: object) -> list[Record]:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()
        self._sent.set()  # lets its thread go
        left = [*self._take_refused(), *self._unconfirmed]
        self._unconfirmed.clear()
        self._close(error)
        return left

    def _write(self, wire: Wire, event: Record) -> None:
        stream = self._endings if is_bad_ending(event) else self._events
        commands: list[tuple[bytes, Heard]] = []
        if not stream.full:
            commands.append((packed(b"XADD", stream.key, b"*", FIELD, encode(event)), self._confirm))
            self._unconfirmed.append(event)
        elif stream is self._events and not isinstance(event, Beat):
            self.dropped[event.kind] += 1
        else:
            self._refused.append(event)
        if time.monotonic() - stream.looked >= SECONDS_BETWEEN_LOOKS:
            commands += self._look(stream)
        if commands:
            wire.send(*zip(*commands, strict=True))
            if not self._sent.is_set():  # costs less than to set it again
                self._sent.set()

    def _look(self, stream: _Stream) -> list[tuple[bytes, Heard]]:
        stream.looked = time.monotonic()

        def judge(size: object) -> None:  # an error where an ACL forbids the question
            stream.full = isinstance(size, int) and size > conf.JOURNAL_MAX_BYTES * stream.share

        return [(packed(b"MEMORY", b"USAGE", stream.key), judge), *self._drop_reports()]

    def _drop_reports(self) -> list[tuple[bytes, Heard]]:
        """Each count is told once: a reply that is lost on the way leaves it untold, or tells it twice."""
        counts, self.dropped = self.dropped, Counter()
        return [
            (packed(b"HINCRBY", self._drops_key, kind.encode(), b"%d" % count), partial(self._reported, kind, count))
            for kind, count in counts.items()
        ]

    def _reported(self, kind: str, count: int, reply: object) -> None:
        if not isinstance(reply, int):
            self.dropped[kind] += count

    def _confirm(self, reply: object) -> None:
        event = self._unconfirmed.popleft()
        if isinstance(reply, redis.RedisError):  # full, loading, read-only ...
            self._refused.append(event)
            self._close(reply)
        else:
            self._pause = FIRST_PAUSE_SECONDS


def _text(reply: Any) -> str:
    return reply.decode() if reply else ""


_journals: WeakSet[RedisJournal] = WeakSet()


def _renew_all() -> None:
    for journal in _journals:
        journal._renew()  # noqa: SLF001


os.register_at_fork(after_in_child=_renew_all)
