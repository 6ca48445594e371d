"""A journal in the Redis of the test run, under a prefix of one test's own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import redis

from django_taskops.events import Event, Record
from django_taskops.journal import client
from django_taskops.journal.keys import FIELD, Keys
from django_taskops.journal.stream import RedisSource
from tests.events import read_event


class Elsewhere:
    """The fallback of these tests: remembers what it was given."""

    def __init__(self) -> None:
        self.events: list[Record] = []
        self.late: list[Record] = []

    def append(self, event: Record) -> None:
        self.events.append(event)

    def append_later(self, event: Record) -> None:
        self.late.append(event)

    def deferring(self) -> bool:
        return True

    def flush(self, **_signal: object) -> None:
        pass

    def holder(self, key: str) -> str:
        return f"whoever has {key}"

    def claim(self, key: str, holder: str) -> str:
        raise NotImplementedError

    def claim_beside(self, other: str, key: str, holder: str) -> tuple[str, str]:
        raise NotImplementedError

    def prepare(self) -> None:
        raise NotImplementedError

    def claim_all(self, claims: Mapping[str, str]) -> None:
        raise NotImplementedError


@contextmanager
def stream_address(redis_url: str, prefix: str) -> Iterator[client.Address]:
    """Its keys are gone afterwards."""
    yield client.of_url(redis_url)
    with redis.Redis.from_url(redis_url) as server:
        for key in server.scan_iter(match=f"{prefix}:*"):
            server.delete(key)


def owned_by(database: str) -> Callable[..., str]:
    def owner(*, create: bool) -> str:
        return database

    return owner


def source_of(address: client.Address, owner: str = "a database") -> RedisSource:
    return RedisSource(address, owned_by(owner))


def kept(address: client.Address) -> list[Event]:
    return [read_event(entry.data, entry.position) for entry in source_of(address).read(1000, 0)]


def put(address: client.Address, *entries: bytes) -> None:
    """Straight into the stream, whatever it is."""
    with address.glance(1) as server:
        for entry in entries:
            server.xadd(Keys.under(address.prefix).events, {FIELD: entry})
