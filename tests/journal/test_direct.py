"""The direct journal: at once, on commit, or a little later; never in the task's way for long."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event as Flag

import pytest
from django.db import OperationalError, connections, transaction

from django_taskops import journal
from django_taskops.events import Event
from django_taskops.journal import postponed
from django_taskops.journal.direct import DirectJournal
from django_taskops.journal.postponed import Postponed
from django_taskops.models import TaskRun
from django_taskops.projection import writer
from tests.events import Story
from tests.workers import eventually


@pytest.mark.django_db(transaction=True)
def test_an_event_is_applied_at_once_and_gets_the_time_as_its_position(database: str) -> None:
    before = time.time_ns() // 1000
    DirectJournal(writer).append(Story().started())

    assert before <= TaskRun.objects.get().seen <= time.time_ns() // 1000


@pytest.mark.django_db(transaction=True)
def test_inside_a_transaction_it_waits_for_the_commit_and_says_so(database: str) -> None:
    direct = DirectJournal(writer)
    assert not direct.deferring()
    with transaction.atomic(using=database):
        assert direct.deferring()
        direct.append(Story().started())
        assert not TaskRun.objects.exists()

    assert TaskRun.objects.exists()


def test_nothing_is_ever_read_from_it() -> None:
    direct = DirectJournal(writer)

    assert list(direct.read(10)) == []
    direct.acknowledge(["unknown"])


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
    assert _busy_timeout(database) == 20_000


def _busy_timeout(database: str) -> int:
    with connections[database].cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        return int(cursor.fetchone()[0])


class Away:
    """A database that is away for the first `failures` events it is given."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.applied: list[str] = []

    def __call__(self, event: Event) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise OperationalError("the database is away")
        self.applied.append(event.task_id)


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

    def slow(event: Event) -> None:
        release.wait(timeout=30)
        applied.append(event.task_id)

    waiting = Postponed(slow)
    stories = [Story() for _ in range(4)]
    for story in stories:
        waiting.put(story.started())
    release.set()

    assert waiting.flush(10)
    assert [story.task_id for story in stories[2:]] == applied[-2:]
    assert "the oldest is dropped" in caplog.text


def test_a_forked_child_leaves_what_waits_to_its_parent() -> None:
    hold = Flag()

    def held(_event: Event) -> None:
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
    monkeypatch.setattr(journal, "_journals", {})

    with pytest.raises(LookupError, match="is django_taskops in INSTALLED_APPS"):
        journal.current()
