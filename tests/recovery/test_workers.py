"""Who lives, by the clock of the database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from django_taskops.events import Beat, Held
from django_taskops.models import WorkerBeat
from django_taskops.projection import writer
from django_taskops.projection.beats import MAX_TASKS
from django_taskops.recovery import workers
from django_taskops.recovery.workers import WorkerState
from tests.recovery.beats import alive, held, silent


def only() -> workers.SeenWorker:
    (worker,) = workers.seen()
    return worker


def test_a_worker_lives_stops_and_falls_silent(database: str) -> None:
    alive("a@shop")
    silent("b@shop", seconds=61)
    alive("c@shop", stopped_at=timezone.now())
    alive("d@shop", applied_at=None)

    assert {worker.name: worker.state for worker in workers.seen()} == {
        "a@shop": WorkerState.ALIVE,
        "b@shop": WorkerState.SILENT,
        "c@shop": WorkerState.STOPPED,
        "d@shop": WorkerState.SILENT,
    }


def test_the_timeout_is_that_of_the_settings(database: str, settings: Settings) -> None:
    silent(seconds=61)
    settings.TASKOPS = {**settings.TASKOPS, "WORKER_TIMEOUT": 3600}

    assert only().state is WorkerState.ALIVE


def test_the_clock_of_the_worker_decides_nothing(database: str) -> None:
    alive(beat_at=datetime(2020, 1, 1, tzinfo=UTC))
    silent("b@shop", beat_at=timezone.now() + timedelta(days=1))

    assert [worker.state for worker in workers.seen()] == [WorkerState.SILENT, WorkerState.ALIVE]


def test_what_it_runs_and_holds_is_read(database: str) -> None:
    alive(running=[held("t-1")], reserved=[held("t-2")], queues=["celery", "mail"], held=9, concurrency=4)
    worker = only()

    assert worker.running == (Held("d-t-1", "t-1", "shop.tasks.price"),)
    assert [task.task_id for task in worker.reserved] == ["t-2"]
    assert (worker.queues, worker.concurrency, worker.held) == (("celery", "mail"), 4, 9)
    assert not worker.listed_in_full
    assert worker.age is not None
    assert worker.age < timedelta(seconds=30)


@pytest.mark.parametrize("value", [None, "text", 7, [], [1], {"a": 1}, [["d", "t"]], [["d", "t", None]]])
def test_details_of_any_shape_are_read(database: str, value: Any) -> None:
    alive()
    shape = dict.fromkeys(("queues", "running", "reserved", "held", "concurrency", "lag_seconds"), value)
    WorkerBeat.objects.update(details=shape)
    assert only().running == ()
    WorkerBeat.objects.update(details=value if value is not None else {})
    assert only().queues == ()


def test_live_workers_are_seen_among_any_number_of_dead_boots(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_WORKERS", 3)
    alive("old@shop")
    for number in range(5):
        silent(f"dead-{number}@shop", seconds=600 + number)

    assert [worker.name for worker in workers.seen()] == ["dead-1@shop", "dead-0@shop", "old@shop"]


def test_any_number_of_workers_costs_one_query_without_their_tasks(database: str) -> None:
    for number in range(20):
        alive(f"w{number}@shop")
    with CaptureQueriesContext(connections[database]) as captured:
        assert len(workers.seen()) == 20

    (statement,) = [query["sql"] for query in captured]
    assert '"tasks"' not in statement


@pytest.mark.parametrize(
    ("beat", "lag", "off"),
    [(4, 0, None), (30, 0, 30), (-50, 0, None), (-300, 0, -300), (-300, 280, None)],
    ids=["in step", "ahead", "on its way", "behind", "it waited in the spool"],
)
def test_a_clock_that_is_off_is_told(database: str, beat: float, lag: float, off: float | None) -> None:
    alive(beat_at=timezone.now() + timedelta(seconds=beat), lag_seconds=lag)
    found = only().clock_off

    assert (None if found is None else found.total_seconds()) == (off and pytest.approx(off, abs=3))


def test_the_clock_of_a_worker_that_is_gone_is_no_matter(database: str) -> None:
    silent(beat_at=timezone.now() + timedelta(hours=1))

    assert only().clock_off is None


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai"])
def test_naive_instants_are_compared_as_well(database: str, settings: Settings, zone: str) -> None:
    settings.USE_TZ = False
    settings.TIME_ZONE = zone
    now = datetime.now(UTC)
    beat = Beat(boot_id="b-1", number=1, at=now, started_at=now, seconds=5, worker="w1@shop")
    writer.apply([beat])
    worker = only()

    assert (worker.state, worker.clock_off) == (WorkerState.ALIVE, None)
    assert worker.age is not None
    assert worker.age < timedelta(seconds=30)


def test_registered_tasks_are_told_where_all_of_them_are_known(database: str) -> None:
    told = alive(tasks=["a", "b"])
    not_yet = alive("b@shop", tasks=[])
    cut = alive("c@shop", tasks=[str(number) for number in range(MAX_TASKS)])

    assert workers.registered([told.boot_id, not_yet.boot_id, cut.boot_id]) == {told.boot_id: {"a", "b"}}
    assert workers.registered([]) == {}
