"""From a real journal into the tables: what can be applied is applied, the rest is set aside, nothing is lost."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from django.db import DatabaseError, InterfaceError, connections
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from django_taskops.events import Call, EventKind
from django_taskops.journal import client
from django_taskops.journal.codec import encode
from django_taskops.journal.stream import RedisSource
from django_taskops.models import OutboxEntry, OutboxKind, QuarantinedEntry, Recorder, TaskRun
from django_taskops.projection import limits, quarantine, writer
from django_taskops.projection.connection import own_connection
from django_taskops.projection.drain import Away, Drain, Drained
from django_taskops.projection.reporter import Reporter
from django_taskops.projection.service import drain_once
from django_taskops.states import TaskState
from tests import databases
from tests.events import Story
from tests.journal.streams import put, source_of, stream_address
from tests.services import ALIASES, MARIADB
from tests.workers import eventually, new_queue


@pytest.fixture
def address(redis_url: str, settings: Settings) -> Iterator[client.Address]:
    prefix = new_queue().name
    settings.TASKOPS = {**settings.TASKOPS, "JOURNAL_PREFIX": prefix}
    with stream_address(redis_url, prefix) as address:
        yield address


@pytest.fixture
def source(address: client.Address) -> RedisSource:
    return source_of(address)


def good(number: int) -> bytes:
    return encode(Story(f"good {number}").succeeded())


UNREADABLE = b'{"kind": "started", "task_'
UNSTORABLE = encode(Story("1").ended(EventKind.FAILED, reason="failed", exception_message="a\x00b"))
TOO_LARGE = encode(replace(Story("1").published(), call=Call(group_index=10**30)))


def applied() -> set[str]:
    return set(TaskRun.objects.values_list("task_id", flat=True))


def test_what_waits_is_applied_and_gone(database: str, address: client.Address, source: RedisSource) -> None:
    story = Story("1")
    put(address, encode(story.published()), encode(story.started()), encode(story.succeeded()))

    (done,) = Drain([source]).round(wait=0)

    assert (done.source, done.applied, done.quarantined, done.full) == ("redis", 3, 0, False)
    assert TaskRun.objects.get().state == TaskState.SUCCESS
    assert source.backlog().entries == 0
    assert Drain([source]).round(wait=0)[0].applied == 0


def test_a_source_that_nobody_needs_any_more_has_hung_up(address: client.Address) -> None:
    """It leaves no connection to the garbage collector."""
    source = source_of(address)
    source.hold()
    (connection,) = source._client.connection_pool._available_connections
    assert connection._sock is not None

    del source

    assert connection._sock is None


def test_a_batch_that_is_full_says_so(database: str, address: client.Address, source: RedisSource) -> None:
    put(address, *(good(number) for number in range(5)))

    first, last = (Drain([source]).round(limit=3, wait=0)[0] for _ in range(2))

    assert (first.applied, first.full, last.applied, last.full) == (3, True, 2, False)


BAD = [(alias, bad) for alias in (*ALIASES, MARIADB) for bad in (UNREADABLE, TOO_LARGE)]


@pytest.mark.parametrize(("database", "bad"), [*BAD, ("default", UNSTORABLE)], indirect=["database"])
def test_an_entry_that_cannot_be_applied_is_set_aside_alone(
    database: str, address: client.Address, source: RedisSource, bad: bytes
) -> None:
    put(address, good(1), good(2), bad, good(3))

    (done,) = Drain([source]).round(wait=0)

    assert applied() == {"good 1", "good 2", "good 3"}
    assert (done.applied, done.quarantined) == (3, 1)
    row = QuarantinedEntry.objects.get()
    assert (row.source, bytes(row.data)) == ("redis", bad)
    assert row.error
    assert source.backlog().entries == 0


@pytest.mark.mariadb
def test_what_is_set_aside_can_be_tried_again(database: str, address: client.Address, source: RedisSource) -> None:
    put(address, UNREADABLE, TOO_LARGE)
    Drain([source]).round(wait=0)
    mended = QuarantinedEntry.objects.get(data=TOO_LARGE)
    QuarantinedEntry.objects.filter(pk=mended.pk).update(data=good(1))

    assert quarantine.retry(list(QuarantinedEntry.objects.values_list("pk", flat=True))) == (1, 1)

    assert applied() == {"good 1"}
    assert bytes(QuarantinedEntry.objects.get().data) == UNREADABLE


@pytest.mark.mariadb
def test_what_is_set_aside_twice_is_kept_once(database: str, address: client.Address, source: RedisSource) -> None:
    """As after a crash between the quarantine and the acknowledgement."""
    put(address, UNREADABLE)
    (entry,) = source.read(1, 0)

    quarantine.put("redis", [(entry, ValueError("first"))])
    quarantine.put("redis", [(entry, ValueError("second"))])

    assert QuarantinedEntry.objects.get().error == "ValueError: first"


def test_without_the_tables_nothing_is_lost_or_set_aside(
    database: str, address: client.Address, source: RedisSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(address, good(1))
    monkeypatch.setattr(TaskRun._meta, "db_table", "taskops_not_migrated")
    with pytest.raises((Away, DatabaseError)):
        Drain([source]).round(wait=0)

    assert source.backlog().entries == 1


READ_ONLY = {
    "postgresql": "SET default_transaction_read_only = on",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "sqlite": "PRAGMA query_only = on",
}


@pytest.mark.mariadb
@pytest.mark.django_db(transaction=True)
def test_a_read_only_database_makes_it_wait_and_is_asked_once(
    database: str, address: client.Address, source: RedisSource
) -> None:
    put(address, *(good(number) for number in range(20)))
    drain = Drain([source])
    with own_connection() as own, own.cursor() as cursor:
        cursor.execute(READ_ONLY[own.vendor])
        with CaptureQueriesContext(own) as asked, pytest.raises(Away):
            drain.round(wait=0)
    assert len(asked) < 20
    assert source.backlog().entries == 20

    drain.round(wait=0)
    assert len(applied()) == 20
    assert not QuarantinedEntry.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("database", "refusal"),
    [
        *(("default", f"RAISE EXCEPTION 'no' USING ERRCODE = '{state}'") for state in ("53100", "42501", "58030")),
        *(("mariadb", f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}") for number in (1021, 1114, 1290, 1836)),
    ],
    indirect=["database"],
)
def test_where_the_runs_cannot_be_written_nothing_is_set_aside_though_the_quarantine_could(
    database: str, address: client.Address, source: RedisSource, refusal: str
) -> None:
    put(address, good(1), good(2))
    drain = Drain([source])
    with databases.refused_inserts(database, "taskops_taskrun", refusal), pytest.raises(Away):
        drain.round(wait=0)

    assert not QuarantinedEntry.objects.exists()
    assert source.backlog().entries == 2
    drain.round(wait=0)
    assert applied() == {"good 1", "good 2"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_full_disk_under_sqlite_makes_it_wait(database: str, address: client.Address, source: RedisSource) -> None:
    put(address, encode(Story("large").published(envelope=b"x" * 500_000)))
    drain = Drain([source])
    with own_connection() as own, own.cursor() as cursor:
        cursor.execute("VACUUM")  # no room of rows that other tests have deleted
        cursor.execute("PRAGMA max_page_count = 1")  # as many as there are
        with pytest.raises(Away):
            drain.round(wait=0)

    assert not QuarantinedEntry.objects.exists()
    assert source.backlog().entries == 1


def test_a_journal_that_cannot_be_reached_keeps_nobody_from_the_others(
    database: str, address: client.Address, source: RedisSource
) -> None:
    put(address, good(1))
    nowhere = source_of(client.of_url("redis://127.0.0.1:1/0"))
    nowhere.name = "nowhere"

    done = Drain([nowhere, source]).round(wait=0)

    assert [each.applied for each in done] == [1]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("database", ["default", "mariadb"], indirect=True)
def test_a_locked_row_makes_it_wait_and_sets_nothing_aside(
    database: str, address: client.Address, source: RedisSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = limits.Limits(postgresql={"lock_timeout": 100}, mysql={"innodb_lock_wait_timeout": 1})
    monkeypatch.setattr(limits, "BACKGROUND", soon)
    story = Story("locked")
    writer.apply([story.started()])
    put(address, good(1), encode(story.succeeded()))
    drain = Drain([source])

    with closing(connections.create_connection(database)) as other:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT 1 FROM taskops_taskrun FOR UPDATE")
        with pytest.raises(DatabaseError):
            drain.round(wait=0)
        other.rollback()
    drain.round(wait=0)

    assert not QuarantinedEntry.objects.exists()
    assert applied() == {"locked", "good 1"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("database", ["default", "mariadb"], indirect=True)
def test_a_connection_that_breaks_is_no_fault_of_the_event(
    database: str, address: client.Address, source: RedisSource
) -> None:
    put(address, good(1))
    drain = Drain([source])
    with own_connection() as own:
        drain.round(wait=0)
        databases.end(database, databases.number_of(own))
        put(address, good(2))
        with pytest.raises((Away, DatabaseError, InterfaceError)):
            drain.round(wait=0)
        own.close()
        drain.round(wait=0)

    assert applied() == {"good 1", "good 2"}
    assert not QuarantinedEntry.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_it_goes_on_until_it_is_stopped_and_then_lets_go(
    database: str, address: client.Address, source: RedisSource
) -> None:
    stopped, told = threading.Event(), list[Drained]()

    def work() -> None:
        with own_connection():
            Drain([source]).run(stopped.is_set, told.extend)

    thread = threading.Thread(target=work)
    thread.start()
    put(address, good(1))
    eventually(lambda: applied() == {"good 1"})
    put(address, good(2))
    eventually(lambda: applied() == {"good 1", "good 2"})
    stopped.set()
    thread.join(10)

    assert not thread.is_alive()
    assert sum(each.applied for each in told) == 2
    assert source.backlog().holder == ""


@pytest.mark.django_db(transaction=True)
def test_once_means_until_nothing_waits(database: str, address: client.Address, source: RedisSource) -> None:
    put(address, *(good(number) for number in range(30)), UNREADABLE)

    (done,) = drain_once([source], 20)

    assert (done.applied, done.quarantined) == (30, 1)
    assert TaskRun.objects.count() == 30


def test_its_connection_is_its_own_and_outside_any_pool(database: str) -> None:
    usual = connections[database]
    with own_connection() as own:
        assert connections[database] is own is not usual
        assert "pool" not in own.settings_dict["OPTIONS"]
        assert usual.settings_dict["NAME"] == own.settings_dict["NAME"]
    assert connections[database] is usual


def test_it_reports_what_it_has_done_and_what_was_dropped(
    database: str, address: client.Address, source: RedisSource
) -> None:
    with address.glance(1) as server:
        server.hset(source._keys.drops, "published", 7)
    report = Reporter([source])

    report([Drained("redis", applied=5, quarantined=1, lag_seconds=0.5)])

    row = Recorder.objects.get()
    assert (row.name, row.applied, row.quarantined, row.dropped, row.lag_seconds) == ("redis", 5, 1, 7, 0.5)
    assert sorted(entry.payload["reason"] for entry in OutboxEntry.objects.filter(kind=OutboxKind.BLIND)) == [
        "dropped",
        "quarantined",
    ]


def test_drops_are_counted_once_and_a_new_journal_begins_anew(
    database: str, address: client.Address, source: RedisSource
) -> None:
    with address.glance(1) as server:
        for count in (7, 7, 9, 2):
            server.hset(source._keys.drops, "published", count)
            Reporter([source])([Drained("redis")])

    assert Recorder.objects.get().dropped == 7 + 2 + 2


def test_events_that_come_late_are_a_word_in_the_outbox(database: str, source: RedisSource) -> None:
    Reporter([source])([Drained("redis", applied=1, lag_seconds=300.0)])

    assert OutboxEntry.objects.get(kind=OutboxKind.BLIND).payload["reason"] == "lag"


def test_reports_are_five_seconds_apart(database: str, source: RedisSource) -> None:
    report = Reporter([source])
    began = time.monotonic()
    for _ in range(3):
        report([Drained("redis", applied=1)])

    assert time.monotonic() - began < 5
    assert Recorder.objects.get().applied == 1
