"""The journal in Redis, as the drain reads it: one holder at a time, of the database that the journal belongs to."""

import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from weakref import finalize

import redis

from ..conf import conf
from . import forks
from .base import BATCH_BYTES, Backlog, Entry
from .client import Address
from .keys import FIELD, Keys

LEASE_SECONDS = 5
REPLY_SECONDS = 5.0
GLANCE_SECONDS = 1.0
PARTITIONS = "1"
NEWEST = 10
UNKNOWN = "?"

# KEYS: about, lease. ARGV: owner, holder, milliseconds, partitions, adopt. Returns the owner and whether we hold.
# PERSIST changes nothing, and lets the writes after it through where Redis is full: else it would stay full for good.
_HOLD = """
redis.call('PERSIST', KEYS[1])
if ARGV[5] == '1' then redis.call('HSET', KEYS[1], 'owner', ARGV[1]) end
redis.call('HSETNX', KEYS[1], 'owner', ARGV[1])
redis.call('HSETNX', KEYS[1], 'partitions', ARGV[4])
local owner = redis.call('HGET', KEYS[1], 'owner')
local partitions = redis.call('HGET', KEYS[1], 'partitions')
local holder = redis.call('GET', KEYS[2])
if owner ~= ARGV[1] or partitions ~= ARGV[4] or (holder and holder ~= ARGV[2]) then return {owner, partitions, 0} end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return {owner, partitions, 1}
"""

# KEYS: a stream. ARGV: how many entries, how many bytes, their field. Returns identifiers, sizes and data, each in one
# piece: redis-py takes longer to take thousands of entries apart than Python to cut three strings.
_READ = """
local identifiers, sizes, data = {}, {}, {}
local left, room, from = tonumber(ARGV[1]), tonumber(ARGV[2]), '-'
while left > 0 and room > 0 do
    local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', math.min(left, 50))
    for _, entry in ipairs(entries) do
        local found = ''
        for i = 1, #entry[2], 2 do if entry[2][i] == ARGV[3] then found = entry[2][i + 1] end end
        identifiers[#identifiers + 1], sizes[#sizes + 1], data[#data + 1] = entry[1], #found, found
        left, room, from = left - 1, room - #found, '(' .. entry[1]
    end
    if #entries < 50 then break end
end
return {table.concat(identifiers, ' '), table.concat(sizes, ' '), table.concat(data)}
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class RedisSource:
    """`owner` names the database that this process writes to, "" where it has no name yet; `create=True` gives it one.

    The first that drains writes it beside the journal. After that nobody drains whose database is another one, such
    as a test run or a shell of staging that reached production's Redis by mistake; `adopt=True` takes it over.
    """

    name = "redis"

    def __init__(self, address: Address, owner: Callable[..., str], *, adopt: bool = False) -> None:
        self.address = address
        self.holder = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        self._keys = Keys.under(address.prefix)
        self._owner = owner
        self._adopt = adopt
        self._client = address.client(REPLY_SECONDS)
        finalize(self, self._client.connection_pool.disconnect).atexit = False
        self._refused = ""
        self._ours = ""

    def hold(self) -> bool:
        keys = (self._keys.about, self._keys.lease)
        ours = self._ours = self._ours or self._owner(create=True)
        arguments = (ours, self.holder, LEASE_SECONDS * 1000, PARTITIONS, int(self._adopt))
        with self._reconnecting():
            owner, partitions, held = _answer(self._client.eval(_HOLD, len(keys), *keys, *arguments))
        self._adopt = False
        self._refused = _refusal(owner.decode(), partitions.decode(), ours)
        return bool(held)

    @property
    def refused(self) -> str:
        """Why this process may not drain, as of the last hold; "" if it may."""
        return self._refused

    def release(self) -> None:
        try:
            self._client.eval(_RELEASE, 1, self._keys.lease, self.holder)
        except redis.RedisError:
            return  # it runs out by itself

    def read(self, limit: int, wait: float) -> Sequence[Entry]:
        with self._reconnecting():
            entries = self._read(limit)
            if not entries and wait > 0:
                streams: Any = {self._keys.endings: "0", self._keys.events: "0"}
                milliseconds = max(1, int(min(wait, REPLY_SECONDS / 2) * 1000))
                with forks.let_through():
                    came = self._client.xread(streams, count=1, block=milliseconds)
                if came:
                    entries = self._read(limit)
            return entries

    def _read(self, limit: int) -> list[Entry]:
        entries: list[Entry] = []
        room = BATCH_BYTES
        for key in (self._keys.endings, self._keys.events):
            identifiers, sizes, data = _answer(self._client.eval(_READ, 1, key, limit - len(entries), room, FIELD))
            room -= len(data)
            start = 0
            for identifier, size in zip(identifiers.split(), map(int, sizes.split()), strict=True):
                entries.append(Entry(f"{key} {identifier.decode()}", data[start : start + size], _position(identifier)))
                start += size
        return entries

    @contextmanager
    def _reconnecting(self) -> Iterator[None]:
        """After a failure, a refusal included, the next question goes over a new connection: after a failover the name
        leads to another Redis, and the old one, now a replica, does not hang up."""
        try:
            yield
        except redis.RedisError:
            self._client.connection_pool.disconnect()
            raise

    def acknowledge(self, entries: Sequence[Entry]) -> None:
        """A stream is read from its beginning and grows at its end: all up to the last entry goes."""
        last: dict[str, str] = {}
        for entry in entries:
            key, _, identifier = entry.key.rpartition(" ")
            last[key] = identifier
        with self._client.pipeline(transaction=False) as pipeline:
            for key, identifier in last.items():
                milliseconds, _, sequence = identifier.partition("-")
                pipeline.xtrim(key, minid=f"{milliseconds}-{int(sequence) + 1}", approximate=False)
            pipeline.execute()

    def mark(self) -> Mapping[str, str]:
        """The newest identifier of each stream that has something in it."""
        ends = {key: _answer(self._client.xrevrange(key, count=1)) for key in (self._keys.endings, self._keys.events)}
        return {key: found[0][0].decode() for key, found in ends.items() if found}

    def has_passed(self, mark: Mapping[str, str]) -> bool:
        """Entries are removed once they have been applied, the oldest first."""
        return not any(_answer(self._client.xrange(key, max=end, count=1)) for key, end in mark.items())

    def run_id(self) -> str:
        """Of this run of the server: another one after a restart. "" where an ACL forbids the question."""
        try:
            facts: Any = _answer(self._client.info("server"))
        except redis.ResponseError:
            return ""
        return str(facts.get("run_id", ""))

    def is_waiting(self) -> bool:
        with self.address.glance(GLANCE_SECONDS) as client:
            return not self._refused and not _answer(client.exists(self._keys.lease))

    def backlog(self) -> Backlog:
        keys = self._keys
        with self.address.glance(GLANCE_SECONDS) as client, client.pipeline(transaction=False) as pipeline:
            for stream in (keys.endings, keys.events):
                pipeline.xlen(stream)
                pipeline.memory_usage(stream)
                pipeline.xrange(stream, count=1)
                pipeline.xrevrange(stream, count=NEWEST)
            pipeline.hgetall(keys.drops)
            pipeline.get(keys.lease)
            pipeline.hmget(keys.about, "owner", "partitions")
            *streams, drops, holder, about = pipeline.execute(raise_on_error=False)
        for answer in (*streams, drops):
            if isinstance(answer, redis.RedisError) and not isinstance(answer, redis.ResponseError):
                raise answer
        return self._backlog(streams, drops, holder, about)

    def _backlog(self, streams: Sequence[Any], drops: Any, holder: Any, about: Any) -> Backlog:
        lengths, sizes = streams[0::4], streams[1::4]
        firsts = [stream[0][0] for stream in streams[2::4] if _is_list(stream)]
        newest = [
            _entry(key.encode(), identifier, fields)
            for key, stream in zip((self._keys.endings, self._keys.events), streams[3::4], strict=True)
            if _is_list(stream)
            for identifier, fields in stream
        ]
        owner, partitions = (value.decode() if value else "" for value in about) if _is_list(about) else ("", "")
        ours = self._owner(create=False)
        return Backlog(
            entries=sum(length for length in lengths if isinstance(length, int)),
            size=sum(size for size in sizes if isinstance(size, int)),
            limit=conf.JOURNAL_MAX_BYTES,
            oldest_at=min(map(_instant, firsts), default=None),
            newest=sorted(newest, key=lambda entry: -entry.position)[:NEWEST],
            dropped={kind.decode(): int(count) for kind, count in drops.items()} if isinstance(drops, dict) else {},
            holder=holder.decode() if isinstance(holder, bytes) else "",
            refused=_refusal(owner, partitions or PARTITIONS, ours) if owner and ours else "",
        )

    def dropped(self) -> int:
        counts: list[Any] = _answer(self._client.hvals(self._keys.drops))
        return sum(map(int, counts))

    def facts(self) -> Mapping[str, str]:
        """What the checks look at; "?" for what an ACL forbids. Raises where it is unreachable."""
        with self.address.glance(GLANCE_SECONDS) as client, client.pipeline(transaction=False) as pipeline:
            for section in ("server", "memory", "persistence"):
                pipeline.info(section)
            pipeline.config_get("save")
            answers: list[Any] = pipeline.execute(raise_on_error=False)
        known: dict[str, Any] = {}
        for answer in answers:
            known |= answer if isinstance(answer, dict) else {}
        names = ("redis_version", "maxmemory", "maxmemory_policy", "aof_enabled", "save")
        return {name: str(known.get(name, UNKNOWN)) for name in names}


def _refusal(owner: str, partitions: str, ours: str) -> str:
    if owner != ours:
        return (
            f"this journal belongs to another database ({owner}, this one is {ours}): give each project its own "
            "JOURNAL_PREFIX, or take it over with taskops_drain --adopt"
        )
    if partitions != PARTITIONS:
        return f"this journal has {partitions} partitions, this release reads {PARTITIONS}"
    return ""


def _entry(key: Any, identifier: bytes, fields: Any) -> Entry:
    name = key.decode() if isinstance(key, bytes) else str(key)
    return Entry(f"{name} {identifier.decode()}", (fields or {}).get(FIELD, b""), _position(identifier))


def _position(identifier: bytes) -> int:
    milliseconds, _, sequence = identifier.partition(b"-")
    return (int(milliseconds) << 20) | min(int(sequence), (1 << 20) - 1)


def _instant(identifier: bytes) -> datetime:
    return datetime.fromtimestamp(int(identifier.partition(b"-")[0]) / 1000, UTC)


def _is_list(answer: object) -> bool:
    return isinstance(answer, (list, tuple)) and bool(answer)


def _answer(reply: Any) -> Any:
    """redis-py types its replies for the asynchronous client as well."""
    return reply
