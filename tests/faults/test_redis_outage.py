"""The Redis of the journal goes away in every way there is, while tasks are told of."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from django_taskops import journal
from django_taskops.models import TaskRun
from tests.events import Story
from tests.faults.accounts import retried_once, wait_for_shapes
from tests.faults.processes import Process, wait_until_drained_by
from tests.faults.telling import tell
from tests.servers import RedisServer, own_redis
from tests.workers import eventually

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
    pytest.mark.usefixtures("database", "journal_there"),
]

STORIES = 40
MANY_STORIES = 2000  # five batches
LONGEST_DELAY_SECONDS = 30
ROUNDS = 10
LONGEST_APPEND_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Trouble:
    begin: Callable[[RedisServer], None]
    end: Callable[[RedisServer], None]


TROUBLES = {
    "stopped": Trouble(lambda server: server.stop(), lambda server: server.start()),
    "hung": Trouble(lambda server: server.pause(), lambda server: server.resume()),
    "full": Trouble(lambda server: server.configure(maxmemory=1), lambda server: server.configure(maxmemory=0)),
}
each_trouble = pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)


@each_trouble
def test_events_go_to_the_spool_meanwhile_and_to_redis_afterwards_and_none_is_doubled(
    trouble: Trouble, journal_redis: RedisServer, start_drain: Callable[..., Process]
) -> None:
    wait_until_drained_by(start_drain())
    before = tell_through(journal_redis)
    wait_for_shapes(before)

    trouble.begin(journal_redis)
    meanwhile = tell(STORIES, confirmed=False)
    wait_for_shapes(meanwhile)

    trouble.end(journal_redis)
    afterwards = tell_through(journal_redis)
    wait_for_shapes([*before, *meanwhile, *afterwards])


@pytest.mark.alone
def test_a_hung_redis_does_not_hold_up_what_is_in_the_spool(
    journal_redis: RedisServer, start_drain: Callable[..., Process]
) -> None:
    """More than a batch of it, which would wait for the reply of the one before it each."""
    wait_until_drained_by(start_drain())
    tell_through(journal_redis)
    journal_redis.pause()

    started = time.monotonic()
    wait_for_shapes(tell(MANY_STORIES), timeout=60)

    assert time.monotonic() - started < LONGEST_DELAY_SECONDS


def test_what_a_full_redis_holds_is_drained(journal_redis: RedisServer, start_drain: Callable[..., Process]) -> None:
    """Else it would stay full for ever where the journal is all that is in it."""
    told = tell_through(journal_redis)
    journal_redis.configure(maxmemory=1)
    start_drain()

    wait_for_shapes(told)


def test_what_was_on_its_way_when_a_durable_redis_crashed_arrives_once(
    journal_redis: RedisServer, start_drain: Callable[..., Process]
) -> None:
    journal_redis.stop()
    journal_redis.start(durable=True)
    drain = start_drain()
    wait_until_drained_by(drain)
    told = tell_through(journal_redis)
    drain.kill()
    told += tell(STORIES, confirmed=False)

    journal_redis.stop()
    told += tell(STORIES, confirmed=False)
    journal_redis.start(durable=True)
    start_drain()

    wait_for_shapes([*told, *tell_through(journal_redis)])


def test_what_waits_in_a_redis_without_persistence_is_gone_with_it(
    journal_redis: RedisServer, start_drain: Callable[..., Process]
) -> None:
    lost = tell(STORIES)
    journal_redis.stop()
    journal_redis.start()
    start_drain()

    wait_for_shapes(tell_through(journal_redis))
    assert not TaskRun.objects.filter(task_id__in=[story.task_id for story in lost]).exists()


@each_trouble
def test_no_append_takes_longer_than_50_ms(trouble: Trouble, tmp_path: Path, settings: Settings) -> None:
    """In one round at least: on a busy machine others take their time as well."""
    slowest: list[float] = []
    spool = journal.sources()[-1]
    assert spool.hold()
    while len(slowest) < ROUNDS and min(slowest, default=1) > LONGEST_APPEND_SECONDS:
        with own_redis(tmp_path / f"round-{len(slowest)}") as server:
            settings.TASKOPS = {**settings.TASKOPS, "JOURNAL": server.url}
            tell_through(server, count=1)
            trouble.begin(server)
            slowest.append(slowest_append(STORIES))
            journal.flush()
    spool.release()

    assert min(slowest) <= LONGEST_APPEND_SECONDS, slowest


def tell_through(server: RedisServer, count: int = STORIES) -> list[Story]:
    """Waits until events go to this Redis, and tells `count` more."""
    told: list[Story] = []

    def arrives() -> bool:
        before = taken_by(server)
        told.extend(tell(1))
        return taken_by(server) > before

    eventually(arrives, 20, "events to go to Redis")
    before = taken_by(server)
    told += tell(count)
    assert taken_by(server) > before
    return told


def taken_by(server: RedisServer) -> int:
    """How many events it has taken since its start."""
    with server.client() as client:
        done: dict[str, Any] = client.info("commandstats")
    return int(done.get("cmdstat_xadd", {"calls": 0})["calls"])


def slowest_append(count: int) -> float:
    slowest = 0.0
    for _story, events in [retried_once() for _ in range(count)]:
        for event in events:
            started = time.perf_counter()
            journal.current().append(event)
            slowest = max(slowest, time.perf_counter() - started)
    return slowest
