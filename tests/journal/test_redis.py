"""The journal in Redis, on a real one: what is appended can be read, and what Redis does not take goes elsewhere."""

import gc
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import redis
from pytest_django import Settings

from django_taskops.events import EventKind
from django_taskops.journal import client
from django_taskops.journal.codec import decode, encode
from django_taskops.journal.keys import Keys
from django_taskops.journal.redis import RedisJournal
from django_taskops.journal.stream import RedisSource
from tests.events import Story
from tests.journal.streams import Elsewhere, kept, owned_by, put, source_of, stream_address
from tests.servers import own_redis
from tests.workers import eventually, new_queue


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
def address(redis_url: str, settings: Settings) -> Iterator[client.Address]:
    """The Redis of the test run, under a prefix of this test's own."""
    prefix = new_queue().name
    settings.TASKOPS = {**settings.TASKOPS, "JOURNAL_PREFIX": prefix}
    with stream_address(redis_url, prefix) as address:
        yield address


@pytest.fixture
def journal(address: client.Address, elsewhere: Elsewhere) -> RedisJournal:
    return RedisJournal(address, elsewhere)


def told(address: client.Address) -> list[tuple[str, str]]:
    return [(event.task_id, event.kind) for event in kept(address)]


def test_events_come_back_in_the_order_in_which_they_were_appended(
    journal: RedisJournal, address: client.Address
) -> None:
    story = Story("1")
    for event in (story.published(), story.received(), story.started(), story.succeeded()):
        journal.append(event)
    journal.flush()

    assert told(address) == [("1", "published"), ("1", "received"), ("1", "started"), ("1", "succeeded")]
    positions = [event.position for event in kept(address)]
    assert positions == sorted(set(positions))


def test_a_process_that_has_prepared_is_connected_before_its_first_event(journal: RedisJournal) -> None:
    journal.prepare()

    eventually(lambda: journal._wire is not None)
    assert journal._dialled.is_set()  # nobody waits for it any more


def test_a_bad_ending_has_a_stream_of_its_own(journal: RedisJournal, address: client.Address) -> None:
    journal.append(Story("1").started())
    journal.append(Story("2").failed())
    journal.flush()

    keys = Keys.under("")
    with address.glance(1) as server:
        assert (server.xlen(keys.events), server.xlen(keys.endings)) == (1, 1)


def test_what_is_acknowledged_does_not_come_again(journal: RedisJournal, address: client.Address) -> None:
    source = source_of(address)
    for number in range(5):
        journal.append(Story(str(number)).failed() if number % 2 else Story(str(number)).started())
    journal.flush()
    entries = source.read(1000, 0)
    journal.append(Story("later").started())
    journal.flush()

    source.acknowledge(entries)

    assert told(address) == [("later", "started")]


def test_reading_waits_for_the_first_and_not_for_ever(journal: RedisJournal, address: client.Address) -> None:
    began = time.monotonic()
    assert source_of(address).read(10, 0.2) == []
    assert 0.15 < time.monotonic() - began < 2

    threading.Timer(0.1, put, (address, encode(Story("1").started()))).start()
    assert len(source_of(address).read(10, 2)) == 1


@pytest.mark.alone
def test_a_redis_that_is_not_there_costs_no_time_and_no_event(elsewhere: Elsewhere) -> None:
    nobody = RedisJournal(client.of_url("redis://127.0.0.1:1/0"), elsewhere)
    longest = 0.0
    for number in range(50):
        began = time.monotonic()
        nobody.append(Story(str(number)).started())
        longest = max(longest, time.monotonic() - began)

    assert [event.subject for event in elsewhere.events] == [str(number) for number in range(50)]
    assert longest < 0.1
    assert nobody.deferring()


def test_after_a_cut_connection_nothing_is_missing_and_it_goes_on(
    journal: RedisJournal, address: client.Address, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_taskops.journal.redis.FIRST_PAUSE_SECONDS", 0.05)
    journal._pause = 0.05
    sent: list[str] = []

    def send() -> None:
        sent.append(str(len(sent)))
        journal.append(Story(sent[-1]).started())

    send()
    identifier = address_of(journal)
    with address.glance(1) as server:
        server.client_kill(identifier)
    for _ in range(10):
        send()

    def is_connected_again() -> bool:
        send()
        return journal._wire is not None

    eventually(is_connected_again, message="a new connection")
    journal.flush()

    assert {event.subject for event in (*kept(address), *elsewhere.late, *elsewhere.events)} == set(sent)
    assert sent[-1] in {event.task_id for event in kept(address)}


def test_nothing_is_entrusted_to_a_connection_that_redis_has_closed(
    journal: RedisJournal, address: client.Address, elsewhere: Elsewhere
) -> None:
    """The system takes what is sent there, and says so only when the next is: by then the process may be dead."""
    story = Story("1")
    journal.append(story.started())
    journal.flush()
    with address.glance(1) as server:
        server.client_kill(address_of(journal))
    select.select([connection_of(journal)._sock], [], [], 5)
    end = story.succeeded()
    journal.append(end)

    assert elsewhere.events == [end]


def test_after_a_failover_behind_one_name_events_go_to_the_new_master(
    tmp_path: Path, address: client.Address, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_taskops.journal.redis.FIRST_PAUSE_SECONDS", 0.05)
    masters: list[client.Address] = []

    def pool(**options: Any) -> Any:
        return masters[-1].pool(**options)

    with own_redis(tmp_path / "old master") as old:
        masters.append(client.of_url(old.url))
        journal = RedisJournal(client.Address(pool, "", "a name"), elsewhere)
        journal.prepare()
        eventually(lambda: journal._wire is not None)
        with old.client() as server:
            server.replicaof("127.0.0.1", 1)
        masters.append(address)
        sent: list[str] = []

        def arrives() -> bool:
            sent.append(str(len(sent)))
            journal.append(Story(sent[-1]).started())
            return bool(kept(address))

        eventually(arrives, message="an event at the new master")
    journal.flush()

    assert {event.subject for event in (*kept(address), *elsewhere.late, *elsewhere.events)} == set(sent)


def test_after_a_failover_behind_one_name_the_new_master_is_drained(tmp_path: Path, address: client.Address) -> None:
    put(address, encode(Story("1").started()))
    with own_redis(tmp_path / "old master") as old:
        source = source_of(client.of_url(old.url))
        assert source.hold()
        with old.client() as server:
            server.replicaof("127.0.0.1", 1)
        (connection,) = source._client.connection_pool._available_connections
        for name in ("host", "port", "db", "password"):  # where its next connection leads to
            setattr(connection, name, address.pool().connection_kwargs.get(name))
        with pytest.raises(redis.ResponseError):
            source.hold()

        assert source.hold()
        assert len(source.read(10, 0)) == 1


def connection_of(journal: RedisJournal) -> Any:
    assert journal._wire is not None
    return journal._wire._connection


def address_of(journal: RedisJournal) -> str:
    host, port = connection_of(journal)._sock.getsockname()
    return f"{host}:{port}"


def test_an_event_that_redis_refuses_goes_elsewhere(
    journal: RedisJournal, address: client.Address, elsewhere: Elsewhere
) -> None:
    journal.append(Story("1").started())
    journal.flush()
    keys = Keys.under("")
    with address.glance(1) as server:
        server.delete(keys.events)
        server.set(keys.events, "no stream")

        journal.append(Story("2").started())
        journal.append(Story("3").started())
        journal.flush()
        server.delete(keys.events)

    assert {event.subject for event in (*elsewhere.late, *elsewhere.events)} == {"2", "3"}


def test_the_last_event_before_a_silence_is_not_lost_with_a_redis_that_refuses_it(
    journal: RedisJournal, address: client.Address, elsewhere: Elsewhere
) -> None:
    with address.glance(1) as server:
        server.set(Keys.under("").events, "no stream")

    journal.append(Story("last").started())

    eventually(lambda: [event.subject for event in elsewhere.late] == ["last"], timeout=5)


def test_beyond_its_bytes_the_happy_path_is_dropped_and_counted_and_bad_endings_stay(
    journal: RedisJournal,
    address: client.Address,
    elsewhere: Elsewhere,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_taskops.journal.redis.SECONDS_BETWEEN_LOOKS", 0.0)
    settings.TASKOPS = {**settings.TASKOPS, "JOURNAL_MAX_BYTES": 200_000}
    for number in range(600):
        journal.append(Story(str(number)).published(envelope=b"x" * 1000))
        journal.flush()
    for number in range(10):
        journal.append(Story(f"bad {number}").failed())
    journal.flush()

    backlog = source_of(address).backlog()
    kinds = [event.kind for event in kept(address)]
    assert backlog.size < 250_000
    assert sum(backlog.dropped.values()) == backlog.dropped["published"] == 600 - kinds.count(EventKind.PUBLISHED)
    assert kinds.count(EventKind.FAILED) == 10
    assert elsewhere.events == []


def test_when_there_is_room_again_events_are_kept_again(
    journal: RedisJournal, address: client.Address, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_taskops.journal.redis.SECONDS_BETWEEN_LOOKS", 0.0)
    settings.TASKOPS = {**settings.TASKOPS, "JOURNAL_MAX_BYTES": 1}
    for _ in range(5):
        journal.append(Story("full").started())
        journal.flush()
    source = source_of(address)
    source.acknowledge(source.read(1000, 0))
    settings.TASKOPS = {**settings.TASKOPS, "JOURNAL_MAX_BYTES": 1_000_000}

    for _ in range(3):
        journal.append(Story("again").started())
        journal.flush()

    assert ("again", "started") in told(address)
    assert sum(source.backlog().dropped.values()) >= 1


def test_what_is_left_of_a_silent_redis_goes_nobodys_way_but_the_newest_its_callers(
    journal: RedisJournal, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller's transaction may be rolled back, and with it what others have published before."""
    for number in range(3):
        journal.append(Story(str(number)).published())
    monkeypatch.setattr("django_taskops.journal.wire.REPLY_SECONDS", 0.0)
    monkeypatch.setattr(connection_of(journal), "can_read", lambda **_timeout: False)

    journal.append(Story("newest").published())

    assert [event.subject for event in elsewhere.late] == ["0", "1", "2"]
    assert [event.subject for event in elsewhere.events] == ["newest"]


@pytest.mark.alone
def test_many_replies_that_are_missing_hold_nobody_up(
    journal: RedisJournal, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(Story("first").started())
    monkeypatch.setattr(connection_of(journal), "can_read", lambda **_timeout: False)
    monkeypatch.setattr(connection_of(journal), "read_response", lambda **_options: pytest.fail("it waits"))
    longest = 0.0
    for number in range(200):
        began = time.monotonic()
        journal.append(Story(str(number)).started())
        longest = max(longest, time.monotonic() - began)

    assert longest < 0.05


def test_questions_leave_no_connection_behind(address: client.Address) -> None:
    source = source_of(address)
    source.hold()
    gc.collect()
    gc.disable()
    try:
        before = descriptors()
        for _ in range(10):
            source.backlog()
            source.facts()
            source.is_waiting()
            source.dropped()
        assert descriptors() <= before
    finally:
        gc.enable()


def test_a_soft_limit_that_strikes_in_the_middle_is_the_tasks_and_loses_nothing(
    journal: RedisJournal, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(Story("1").started())

    def strike(*_args: object, **_kwargs: object) -> None:
        raise TimeoutOfTheTask

    monkeypatch.setattr(connection_of(journal), "send_packed_command", strike)
    with pytest.raises(TimeoutOfTheTask):
        journal.append(Story("2").started())

    assert [event.subject for event in (*elsewhere.late, *elsewhere.events)] == ["1", "2"]


class TimeoutOfTheTask(Exception):
    pass


def test_an_append_in_the_middle_of_an_append_goes_elsewhere(
    journal: RedisJournal, address: client.Address, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a signal handler of the project's that publishes."""
    journal.append(Story("1").started())
    send = connection_of(journal).send_packed_command

    def interrupted(*arguments: Any, **options: Any) -> Any:
        journal.append(Story("inner").started())
        return send(*arguments, **options)

    monkeypatch.setattr(connection_of(journal), "send_packed_command", interrupted)
    journal.append(Story("2").started())
    monkeypatch.undo()
    journal.flush()

    assert {event.subject for event in elsewhere.events} == {"inner"}
    assert told(address) == [("1", "started"), ("2", "started")]


def test_a_child_has_its_own_connection_and_leaves_its_parents_alone(
    journal: RedisJournal, address: client.Address, elsewhere: Elsewhere
) -> None:
    journal.append(Story("parent").started())
    inherited = connection_of(journal)._sock.fileno()

    def child() -> bool:
        journal.append(Story("child").started())
        journal.flush()
        return not is_open(inherited) or connection_of(journal)._sock.fileno() == inherited

    assert in_child(child)
    journal.append(Story("parent again").started())
    journal.flush()

    assert sorted(event.task_id for event in kept(address)) == ["child", "parent", "parent again"]
    assert elsewhere.events == []


def descriptors() -> int:
    count: int = psutil.Process().num_fds()
    return count


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def in_child(function: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if function() else 1)
        finally:
            os._exit(2)
    _pid, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0


def test_threads_share_the_connection_and_lose_nothing(journal: RedisJournal, address: client.Address) -> None:
    def work(name: int) -> None:
        for number in range(50):
            journal.append(Story(f"{name}-{number}").started())

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.flush()

    assert len({task_id for task_id, _kind in told(address)}) == 400


def test_the_first_that_claims_a_key_holds_it(journal: RedisJournal) -> None:
    assert [journal.claim("key", name) for name in ("first", "second", "first")] == ["first"] * 3


def test_a_question_goes_over_the_connection_that_is_there(
    journal: RedisJournal, address: client.Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task waits for it: to connect, greet and choose a database would take five times as long."""
    journal.append(Story("1").started())
    eventually(lambda: journal._wire is not None)
    monkeypatch.setattr(client.Address, "glance", None)

    assert journal.holder("key") == ""
    assert [journal.claim("key", name) for name in ("first", "second")] == ["first"] * 2
    assert journal.holder("key") == "first"
    assert journal.claim_beside("key", "other", "second") == ("first", "second")
    assert journal.claim_beside("nobody's", "other", "third") == ("", "second")
    journal.append(Story("1").succeeded())
    journal.flush()
    assert told(address) == [("1", "started"), ("1", "succeeded")]


def test_a_claim_beside_a_question_before_there_is_a_connection(journal: RedisJournal) -> None:
    assert journal.claim_beside("key", "other", "first") == ("", "first")
    assert journal.claim("key", "second") == "second"
    assert journal.claim_beside("key", "other", "third") == ("second", "first")


def test_a_new_connection_is_not_named(address: client.Address) -> None:
    """redis-py takes milliseconds to find out its own version, and a task may wait for it."""
    connection = address.pool().make_connection()

    assert [getattr(connection, name, None) for name in ("driver_info", "lib_name", "lib_version")] == [None] * 3


def test_a_task_waits_once_for_a_redis_that_does_not_answer(elsewhere: Elsewhere) -> None:
    """It may have two questions, and 250 ms for all of us: only the first connects."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        journal = RedisJournal(client.of_url(f"redis://127.0.0.1:{silent.getsockname()[1]}/0"), elsewhere)
        with pytest.raises(redis.RedisError):
            journal.holder("key")
        with pytest.raises(redis.RedisError):
            journal.claim("key", "me")
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.alone
def test_a_reply_that_stops_half_way_holds_nobody_up(elsewhere: Elsewhere) -> None:
    with stalling_redis() as address:
        journal = RedisJournal(address, elsewhere)
        journal.prepare()
        eventually(lambda: journal._wire is not None)
        longest, sent = 0.0, 0

        def has_given_it_up() -> bool:
            nonlocal longest, sent
            sent += 1
            began = time.monotonic()
            journal.append(Story(str(sent)).started())
            longest = max(longest, time.monotonic() - began)
            return journal._wire is None

        eventually(has_given_it_up)

    assert longest < 1  # of the 5 s that a connection may take
    assert {event.subject for event in (*elsewhere.late, *elsewhere.events)} == {str(each + 1) for each in range(sent)}


@pytest.mark.alone
def test_nor_does_it_hold_up_a_question(elsewhere: Elsewhere) -> None:
    with stalling_redis() as address:
        journal = RedisJournal(address, elsewhere)
        journal.prepare()
        eventually(lambda: journal._wire is not None)
        began = time.monotonic()
        with pytest.raises(redis.RedisError):
            journal.claim("key", "me")

    assert time.monotonic() - began < 1


@contextmanager
def stalling_redis() -> Iterator[client.Address]:
    """Says which Redis it is, and of every other reply the first two bytes."""

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while asked := connection.recv(65536):
                connection.sendall(b"$21\r\nredis_version:7.2.0\r\n\r\n" if b"INFO" in asked else b"$1")

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield client.of_url(f"redis://127.0.0.1:{server.getsockname()[1]}/0?protocol=2")
        server.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_breaks_over_a_question_costs_no_event_and_the_question_is_asked_anew(
    journal: RedisJournal, address: client.Address, elsewhere: Elsewhere
) -> None:
    journal.append(Story("1").started())
    eventually(lambda: journal._wire is not None)
    with address.glance(1) as server:
        cast("Any", server).execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    assert journal.claim("key", "first") == "first"
    journal.flush()
    assert {event.subject for event in (*kept(address), *elsewhere.events)} == {"1"}


def test_one_at_a_time_holds_the_streams(address: client.Address) -> None:
    first, second = source_of(address), source_of(address)

    assert (first.is_waiting(), first.hold(), first.is_waiting(), second.hold(), first.hold()) == (
        True,
        True,
        False,
        False,
        True,
    )
    first.release()
    assert second.hold()
    first.release()  # of what is not its own
    assert not first.hold()


def test_another_database_may_not_drain_it_unless_it_is_told_to(address: client.Address) -> None:
    ours, theirs = source_of(address, "production"), source_of(address, "a test run")
    assert ours.hold()
    ours.release()

    assert not theirs.hold()
    assert "belongs to another database (production, this one is a test run)" in theirs.refused
    assert theirs.backlog().refused == theirs.refused
    adopted = RedisSource(address, owned_by("a test run"), adopt=True)
    assert adopted.hold()
    adopted.release()
    assert not ours.hold()


def test_the_backlog_says_what_waits(journal: RedisJournal, address: client.Address) -> None:
    empty = source_of(address).backlog()
    assert (empty.entries, empty.size, empty.oldest_at, list(empty.newest), empty.holder) == (0, 0, None, [], "")

    for number in range(12):
        journal.append(Story(str(number)).started())
    journal.append(Story("last").failed())
    journal.flush()
    source = source_of(address)
    source.hold()
    backlog = source.backlog()

    assert backlog.entries == 13
    assert 0 < backlog.size < backlog.limit
    assert backlog.oldest_at is not None
    assert {decode(entry.data).subject for entry in backlog.newest[:3]} <= {"last", "11", "10", "9"}
    assert len(backlog.newest) == 10
    assert backlog.holder == source.holder


def test_the_facts_that_the_checks_look_at(address: client.Address) -> None:
    facts = source_of(address).facts()

    assert set(facts) == {"redis_version", "maxmemory", "maxmemory_policy", "aof_enabled", "save"}
    assert (facts["maxmemory_policy"], facts["aof_enabled"]) == ("noeviction", "0")
