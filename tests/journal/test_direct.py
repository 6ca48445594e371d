"""The direct journal: at once, on commit, or a little later; never in the task's way for long."""

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event as Flag
from threading import Thread

import pytest
from django.db import OperationalError, connections, transaction

from django_taskops import journal
from django_taskops.events import Event, Record
from django_taskops.journal import postponed
from django_taskops.journal.direct import DirectJournal
from django_taskops.journal.postponed import Postponed
from django_taskops.models import TaskRun
from django_taskops.projection import writer
from django_taskops.projection.connection import own_connection
from tests.events import Story
from tests.workers import eventually


@pytest.mark.django_db(transaction=True)
def test_an_event_is_applied_at_once(database: str) -> None:
    DirectJournal(writer).append(Story().started())

    assert TaskRun.objects.get().state == "STARTED"


@pytest.mark.django_db(transaction=True)
def test_a_publish_inside_a_transaction_waits_for_the_commit_and_says_so(database: str) -> None:
    direct = DirectJournal(writer)
    assert not direct.deferring()
    with transaction.atomic(using=database):
        assert direct.deferring()
        direct.append(Story().published())
        assert not TaskRun.objects.exists()

    assert TaskRun.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_what_a_worker_does_is_a_fact_though_the_transaction_around_it_is_rolled_back(database: str) -> None:
    direct = DirectJournal(writer)
    with transaction.atomic(using=database):
        direct.append(Story().started())
        transaction.set_rollback(True, using=database)

    assert eventually(TaskRun.objects.first).state == "STARTED"


def test_inside_djangos_test_case_nothing_is_written_past_its_rollback(database: str) -> None:
    direct = DirectJournal(writer)
    direct.append(Story().started())

    assert direct.postponed.flush(0)
    assert not TaskRun.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_without_autocommit_events_are_recorded_all_the_same(database: str) -> None:
    direct, story = DirectJournal(writer), Story()
    transaction.set_autocommit(False, using=database)
    try:
        direct.append(story.published())
        direct.append(story.started())
    finally:
        transaction.rollback(using=database)
        transaction.set_autocommit(True, using=database)

    run = eventually(lambda: TaskRun.objects.get(task_id=story.task_id, state="STARTED"))
    assert run.queue == "celery"


@pytest.mark.alone
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_a_locked_table_holds_a_task_up_once_and_briefly(database: str) -> None:
    direct, stories, locked, done = DirectJournal(writer), [Story() for _ in range(5)], Flag(), Flag()

    def lock_for_long() -> None:
        try:
            with transaction.atomic(using=database), connections[database].cursor() as cursor:
                cursor.execute("LOCK TABLE taskops_taskrun")
                locked.set()
                done.wait(timeout=30)
        finally:
            connections[database].close()

    with ThreadPoolExecutor(1) as other:
        other.submit(lock_for_long)
        locked.wait(timeout=30)
        started = time.monotonic()
        for story in stories:
            direct.append(story.started())
        held_up = time.monotonic() - started
        done.set()

    assert held_up < 0.8
    eventually(lambda: TaskRun.objects.count() == len(stories))
    with connections[database].cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("0",)


@pytest.mark.alone
@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_the_drivers_timeout_bounds_what_a_hung_database_costs_and_it_is_paid_once(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, later = DirectJournal(writer), list[Record]()
    monkeypatch.setattr(direct.postponed, "put", later.append)
    with socket.create_server(("127.0.0.1", 0)) as hung, own_connection() as own:
        host, port = hung.getsockname()
        own.settings_dict |= {"HOST": host, "PORT": port, "OPTIONS": {"connect_timeout": 2}}
        started = time.monotonic()
        for _ in range(5):
            direct.append(Story().started())
        held_up = time.monotonic() - started

    assert 1 < held_up < 4
    assert len(later) == 5


def test_what_a_thread_still_has_to_write_may_get_lost_with_the_process() -> None:
    async def publish() -> bool:
        return DirectJournal(writer).deferring()

    paused = DirectJournal(writer)
    paused._paused_until = time.monotonic() + 60

    assert asyncio.run(publish())
    assert paused.deferring()


@pytest.mark.alone
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_busy_sqlite_holds_a_task_up_for_half_a_second_at_most(database: str) -> None:
    """Somebody else writes for as long as they like; the row comes when they are done."""
    direct, story, locked, done = DirectJournal(writer), Story(), Flag(), Flag()

    def write_for_long() -> None:
        try:
            with transaction.atomic(using=database):
                locked.set()
                done.wait(timeout=30)
        finally:
            connections[database].close()

    with ThreadPoolExecutor(1) as other:
        other.submit(write_for_long)
        locked.wait(timeout=30)
        started = time.monotonic()
        direct.append(story.started())
        held_up = time.monotonic() - started
        done.set()

    assert held_up < 0.5
    assert eventually(lambda: TaskRun.objects.get(task_id=story.task_id)).state == "STARTED"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_projects_own_patience_with_sqlite_is_left_as_it_was(database: str) -> None:
    with connections[database].cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 54321")
        DirectJournal(writer).append(Story().started())
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone() == (54321,)
    connections[database].close()


def test_the_tasks_own_time_limit_goes_through_and_the_event_is_not_lost() -> None:
    class Interrupted:
        def in_transaction(self) -> bool:
            return False

        def apply_impatiently(self, _events: Sequence[Event]) -> None:
            raise TimeoutError

        def apply_afresh(self, events: Sequence[Event]) -> None:
            applied.extend(event.task_id for event in events)

        def release(self) -> None: ...

    applied: list[str] = []
    story, interrupted = Story(), Interrupted()
    direct = DirectJournal(interrupted, passing=(TimeoutError,))  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        direct.append(story.started())

    assert direct.postponed.flush(10)
    assert applied == [story.task_id]


class Away:
    """A database that is away for the first `failures` events it is given."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.applied: list[str] = []

    def __call__(self, event: Record) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise OperationalError("the database is away")
        self.applied.append(event.subject)


def test_postponed_events_come_in_their_order_when_the_database_is_back() -> None:
    away = Away(failures=2)
    waiting = Postponed(away)
    stories = [Story() for _ in range(3)]
    for story in stories:
        waiting.put(story.started())

    assert waiting.flush(10)
    assert away.applied == [story.task_id for story in stories]


def test_what_waits_longer_than_a_minute_is_dropped_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postponed, "KEPT_SECONDS", 0.0)
    away, story = Away(failures=10**6), Story()
    waiting = Postponed(away)
    waiting.put(story.started())

    assert waiting.flush(10)
    assert f"started of {story.task_id} is dropped: OperationalError" in caplog.text


def test_beyond_a_thousand_the_oldest_is_dropped_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postponed, "MAX_EVENTS", 2)
    release = Flag()
    applied: list[str] = []

    def slow(event: Record) -> None:
        release.wait(timeout=30)
        applied.append(event.subject)

    waiting = Postponed(slow)
    stories = [Story() for _ in range(4)]
    for story in stories:
        waiting.put(story.started())
    release.set()

    assert waiting.flush(10)
    assert [story.task_id for story in stories[2:]] == applied[-2:]
    assert "the oldest is dropped" in caplog.text


def test_a_signal_handler_may_put_while_the_thread_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    away, stories, started = Away(failures=0), [Story(), Story()], []
    waiting, start = Postponed(away), Thread.start

    def interrupted(thread: Thread) -> None:
        if thread.name == "taskops-postponed":
            started.append(thread)
            waiting.put(stories[1].started())
        start(thread)

    monkeypatch.setattr(Thread, "start", interrupted)
    putting = Thread(target=waiting.put, args=(stories[0].started(),), daemon=True)
    putting.start()
    putting.join(10)

    assert not putting.is_alive()
    assert waiting.flush(10)
    assert away.applied == [story.task_id for story in stories]
    assert len(started) == 1


def test_a_forked_child_leaves_what_waits_to_its_parent() -> None:
    hold = Flag()

    def held(_event: Record) -> None:
        hold.wait(timeout=30)

    waiting = Postponed(held)
    waiting.put(Story().started())

    child = os.fork()
    if child == 0:
        os._exit(0 if waiting.flush(0) else 1)
    _, status = os.waitpid(child, 0)
    hold.set()

    assert os.waitstatus_to_exitcode(status) == 0
    assert waiting.flush(10)


def test_without_the_app_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_replaced_by", [])
    monkeypatch.setattr(journal, "_choices", [])

    with pytest.raises(LookupError, match="is django_taskops in INSTALLED_APPS"):
        journal.current()
