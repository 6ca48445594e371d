"""Rows of workers, from what they say of themselves."""

import json
from dataclasses import replace
from datetime import timedelta
from itertools import permutations

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_taskops.events import Beat, Record
from django_taskops.journal.codec import UnreadableEvent, decode, encode
from django_taskops.models import TaskRun, WorkerBeat
from django_taskops.projection import writer
from tests.events import BEAT, START, Story

pytestmark = pytest.mark.mariadb

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


def test_any_number_of_beats_costs_two_statements(database: str) -> None:
    beats: list[Record] = [replace(BEAT, boot_id=f"boot-{number}") for number in range(50)]
    with CaptureQueriesContext(connections[database]) as queries:
        writer.apply(beats)
    assert sum("workerbeat" in query["sql"] for query in queries) == 2
    assert WorkerBeat.objects.count() == 50
