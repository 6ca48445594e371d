"""The outbox is carried out at least once, claimed, and later where it fails."""

from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from types import SimpleNamespace
from typing import Any, Self

import pytest
from django.db import connections
from django.dispatch import Signal
from django.utils import timezone

from django_taskops.models import DeadLetter, OutboxEntry, OutboxKind, OutboxStatus
from django_taskops.projection import writer
from django_taskops.recovery import outbox
from django_taskops.signals import dead_letter_resolved, recorder_blind, task_dead_lettered
from tests import tasks
from tests.events import Story
from tests.factories import OutboxEntryFactory
from tests.services import ALIASES
from tests.workers import BrokerQueue, WorkerStarter, eventually

pytestmark = pytest.mark.mariadb

BLIND = {"reason": "lag", "detail": "events waited", "since": "2026-01-01T00:00:00+00:00"}


class Heard:
    """What a signal told, for as long as the test runs."""

    def __init__(self, signal: Signal) -> None:
        self.signal = signal
        self.letters: list[DeadLetter] = []
        self.failing = False

    def __enter__(self) -> Self:
        self.signal.connect(self._hear, weak=False)
        return self

    def __exit__(self, *_error: object) -> None:
        self.signal.disconnect(self._hear)

    def _hear(self, dead_letter: DeadLetter, **_kwargs: Any) -> None:
        if self.failing:
            raise ConnectionError("the chat service is down")
        self.letters.append(dead_letter)


def test_the_public_signals_tell_of_deaths_and_of_healing(database: str) -> None:
    story = Story()
    with Heard(task_dead_lettered) as deaths, Heard(dead_letter_resolved) as healed:
        writer.apply([story.published(), story.failed()])
        assert outbox.carry_out() == 1
        writer.apply([story.requeued().started(), story.succeeded()])
        assert outbox.carry_out() == 1
        assert outbox.carry_out() == 0

    assert [letter.task_id for letter in deaths.letters] == [story.task_id]
    assert [letter.status for letter in healed.letters] == ["resolved"]


def test_a_blind_recorder_is_told_in_plain_words(database: str) -> None:
    heard: list[dict[str, Any]] = []

    def hear(sender: object, signal: Signal, **told: Any) -> None:
        heard.append({"sender": sender, **told})

    since = timezone.now() - timedelta(minutes=5)
    payload = {"reason": "dropped", "detail": "7 events were dropped", "since": since.isoformat()}
    OutboxEntryFactory(kind=OutboxKind.BLIND, key="recorder_blind:dropped:1", payload=payload)
    recorder_blind.connect(hear)
    try:
        assert outbox.carry_out() == 1
    finally:
        recorder_blind.disconnect(hear)

    assert heard == [{"sender": None, "reason": "dropped", "detail": "7 events were dropped", "since": since}]


def test_what_fails_is_kept_with_its_error_and_tried_again_later(database: str) -> None:
    story = Story()
    writer.apply([story.published(), story.failed()])
    with Heard(task_dead_lettered) as deaths:
        deaths.failing = True
        assert outbox.carry_out() == 0
        entry = OutboxEntry.objects.get()
        assert (entry.status, entry.tries) == (OutboxStatus.PENDING, 1)
        assert "the chat service is down" in entry.error
        assert entry.available_at > timezone.now()

        deaths.failing = False
        OutboxEntry.objects.update(available_at=timezone.now() - timedelta(seconds=1))
        assert outbox.carry_out() == 1

    assert len(deaths.letters) == 1


def test_what_fails_for_ever_is_given_up_and_stays_readable(database: str) -> None:
    story = Story()
    writer.apply([story.published(), story.failed()])
    OutboxEntry.objects.update(tries=outbox.MAX_TRIES - 1)
    with Heard(task_dead_lettered) as deaths:
        deaths.failing = True
        outbox.carry_out()

    assert OutboxEntry.objects.get().status == OutboxStatus.FAILED


def test_a_call_goes_on_while_more_is_due(database: str) -> None:
    OutboxEntryFactory.create_batch(5, kind=OutboxKind.BLIND, payload=BLIND)

    assert outbox.carry_out(limit=2) == 5
    assert OutboxEntry.objects.filter(status=OutboxStatus.DONE).count() == 5


def test_a_call_leaves_the_rest_to_the_next_after_some_seconds(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, outbox.LONGEST_CALL_SECONDS])
    monkeypatch.setattr(outbox, "time", SimpleNamespace(monotonic=clock.__next__))
    OutboxEntryFactory.create_batch(5, kind=OutboxKind.BLIND, payload=BLIND)

    assert outbox.carry_out() == 2
    left = OutboxEntry.objects.filter(status=OutboxStatus.PENDING)
    assert [(entry.tries, entry.claimed_until) for entry in left] == [(0, None)] * 3


@pytest.mark.django_db(transaction=True)
def test_two_housekeepers_at_once_tell_each_thing_once(database: str) -> None:
    stories = [Story() for _ in range(20)]
    writer.apply([event for story in stories for event in (story.published(), story.failed())])
    barrier = Barrier(2)

    def keep_house() -> int:
        try:
            barrier.wait(timeout=30)
            return outbox.carry_out()
        finally:
            connections[database].close()

    with Heard(task_dead_lettered) as deaths, ThreadPoolExecutor(2) as threads:
        done = sum(future.result() for future in [threads.submit(keep_house) for _ in range(2)])

    assert done == 20
    assert sorted(letter.task_id for letter in deaths.letters) == sorted(story.task_id for story in stories)


@pytest.mark.parametrize("database", ALIASES, indirect=True)
def test_a_worker_puts_the_notice_of_a_death_on_the_tasks_dead_letter_queue(
    start_worker: WorkerStarter, queue: BrokerQueue, database: str
) -> None:
    start_worker()
    result = tasks.notifies_of_its_death.delay("A1")

    notices = BrokerQueue(tasks.NOTICES)
    message = eventually(lambda: next((m for m in notices.messages() if m["headers"]["id"] == result.id), None))
    notice = message["headers"]["taskops_dead_letter"]
    assert (notice["task_id"], notice["reason"], notice["generation"]) == (result.id, "non_retryable", 0)
    assert b64decode(message["body"]).startswith(b'[["A1"], {}')


@pytest.mark.parametrize("error", [ConnectionError, SystemExit])
def test_a_receiver_that_fails_keeps_it_from_none_of_the_others(database: str, error: type[BaseException]) -> None:
    def fail(**_kwargs: Any) -> None:
        raise error("down")

    story = Story()
    writer.apply([story.published(), story.failed()])
    task_dead_lettered.connect(fail)
    try:
        with Heard(task_dead_lettered) as deaths:
            outbox.carry_out()
    finally:
        task_dead_lettered.disconnect(fail)

    assert OutboxEntry.objects.get().status == OutboxStatus.PENDING
    assert len(deaths.letters) == (1 if error is ConnectionError else 0)


def test_an_error_whose_text_no_database_stores_does_not_stop_the_pass(database: str) -> None:
    def fail(**_kwargs: Any) -> None:
        raise ValueError("nul \x00 byte")

    stories = [Story(), Story()]
    writer.apply([event for story in stories for event in (story.published(), story.failed())])
    task_dead_lettered.connect(fail)
    try:
        assert outbox.carry_out() == 0
    finally:
        task_dead_lettered.disconnect(fail)

    assert [entry.tries for entry in OutboxEntry.objects.all()] == [1, 1]


def test_a_letter_without_its_message_has_a_notice_all_the_same(database: str, queue: BrokerQueue) -> None:
    story = Story()
    notices = BrokerQueue(f"{queue.name}-dead")
    writer.apply([story.published(envelope=None), story.failed(dead_letter_queue=notices.name)])

    assert outbox.carry_out() == 2
    assert notices.messages()[0]["headers"]["taskops_dead_letter"]["task_id"] == story.task_id
