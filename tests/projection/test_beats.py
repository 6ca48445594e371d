"""Rows of workers, from what they say of themselves."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from threading import Barrier

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_taskops.events import Beat
from django_taskops.journal.codec import UnreadableEvent, decode, encode
from django_taskops.models import TaskRun, WorkerBeat
from django_taskops.projection import writer
from tests.events import BEAT, START, Story

pytestmark = pytest.mark.mariadb

BOOTS = 50
LATER = replace(BEAT, number=2, at=START + timedelta(seconds=5), tasks=None, running=(), held=1)
LAST = replace(LATER, number=3, at=START + timedelta(seconds=10), reserved=(), held=0, stopped=True)


def test_a_beat_survives_the_journal() -> None:
    assert decode(encode(BEAT)) == BEAT
    assert decode(encode(LAST)) == LAST


@pytest.mark.parametrize(
    "flaw",
    [{"boot_id": ""}, {"boot_id": "x" * 37}, {"number": "1"}, {"seconds": 0}, {"worker": "a\x00"}, {"at": "now"}],
)
def test_what_no_row_could_hold_is_no_beat(flaw: dict[str, object]) -> None:
    line = json.loads(encode(BEAT)) | flaw
    with pytest.raises(UnreadableEvent):
        decode(json.dumps(line).encode())


@pytest.mark.parametrize("order", list(permutations((BEAT, LATER, LAST))))
@pytest.mark.parametrize("size", [1, 6])
def test_the_newest_beat_wins_whatever_their_order(database: str, order: tuple[Beat, ...], size: int) -> None:
    twice = [*order, *order]
    for start in range(0, len(twice), size):
        writer.apply(twice[start : start + size])

    row = WorkerBeat.objects.get()
    assert (row.number, row.beat_at, row.stopped_at) == (3, LAST.at, LAST.at)
    assert (row.worker, row.host, row.pid, row.pool) == ("w1@shop", "shop-7", 7, "prefork")
    assert row.details["running"] == []
    assert row.details["queues"] == ["celery", "mail"]
    assert row.tasks == ["shop.mail", "shop.price"]


@pytest.mark.django_db(transaction=True)
def test_of_two_writers_at_once_the_one_with_the_newest_beat_wins(database: str) -> None:
    """Many times over: two drains deal the beats of one worker among them."""
    barrier = Barrier(2)

    def write(beats: list[Beat]) -> None:
        try:
            for beat in beats:
                barrier.wait(timeout=30)
                writer.apply([beat])
        finally:
            connections[database].close()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, [_beats_of_many(BEAT), _beats_of_many(LAST)]))

    assert set(WorkerBeat.objects.values_list("number", "stopped_at")) == {(3, LAST.at)}
    assert WorkerBeat.objects.filter(tasks=sorted(BEAT.tasks or ())).count() == BOOTS


def _beats_of_many(beat: Beat) -> list[Beat]:
    return [replace(beat, boot_id=f"boot-{number}") for number in range(BOOTS)]


def test_tasks_are_kept_until_others_are_said(database: str) -> None:
    writer.apply([BEAT])
    writer.apply([LATER])
    assert WorkerBeat.objects.get().tasks == ["shop.mail", "shop.price"]
    writer.apply([replace(LAST, tasks=("shop.price",))])
    assert WorkerBeat.objects.get().tasks == ["shop.price"]


def test_the_clock_of_the_database_says_when_it_was_written(database: str) -> None:
    """That of the worker's host may be anywhere."""
    writer.apply([BEAT])
    applied_at = WorkerBeat.objects.get().applied_at
    assert applied_at is not None
    assert abs(timezone.now() - applied_at) < timedelta(minutes=1)


def test_whoever_sees_a_beat_sees_what_came_before_it(database: str) -> None:
    story = Story()
    with CaptureQueriesContext(connections[database]) as queries:
        writer.apply([BEAT, story.published(), story.started()])
    tables = [query["sql"] for query in queries if "INSERT" in query["sql"]]
    assert "taskops_workerbeat" in tables[-1]
    assert TaskRun.objects.filter(task_id=story.task_id).exists()


@pytest.mark.parametrize(("beat", "statements"), [(BEAT, 3), (LATER, 2)], ids=["new", "known"])
def test_any_number_of_beats_costs_a_few_statements(database: str, beat: Beat, statements: int) -> None:
    if beat is LATER:
        writer.apply(_beats_of_many(BEAT))
    with CaptureQueriesContext(connections[database]) as queries:
        writer.apply(_beats_of_many(beat))
    assert sum("workerbeat" in query["sql"] for query in queries) == statements
    assert WorkerBeat.objects.filter(number=beat.number).count() == BOOTS
