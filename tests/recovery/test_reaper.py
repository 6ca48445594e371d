"""What the reaper makes of rows, its clock in the hands of the test. tests/lifecycle has real workers."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery import chain
from django.db.models import F
from django.utils import timezone
from pytest_django import Settings

from django_taskops import tracked_task
from django_taskops.events import EventKind
from django_taskops.models import DeadLetter, OutboxEntry, OutboxKind, RunEnvelope, TaskRun, WorkerBeat
from django_taskops.projection import writer
from django_taskops.recovery import requeue
from django_taskops.recovery.reaper import Reaper, roll_call, undelivered
from django_taskops.recovery.reaper.judgement import Judgement
from django_taskops.recovery.reaper.search import Seen, Sent
from django_taskops.states import LetterStatus
from tests import tasks
from tests.events import WORKER, Story
from tests.factories import TaskRunFactory
from tests.recovery.test_canvas import envelope
from tests.workers import BrokerQueue

TIMEOUT = 60
STEP = 1.0


@tracked_task(name="tests.reaped.idempotent", idempotent=True, dead_letter=False)
def idempotent() -> None: ...


@tracked_task(name="tests.reaped.odd", idempotent=True)
def odd() -> None: ...


odd.max_retries = "3"  # type: ignore[attr-defined]


class World:
    """Workers that beat each second, all but the silent ones, and a reaper among them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.silent: set[str] = set()
        self.reaper = Reaper("own", clock=lambda: self.now)
        self.beat("own", pid=1)

    def beat(self, boot_id: str, **fields: Any) -> WorkerBeat:
        given = {"worker": f"{boot_id}@shop", "host": boot_id, "pid": 7, "seconds": 5, **fields}
        row: WorkerBeat = WorkerBeat.objects.create(
            boot_id=boot_id, started_at=timezone.now(), beat_at=timezone.now(), number=1, **given
        )
        return row

    def go_on(self, seconds: float) -> Sequence[Judgement]:
        done: list[Judgement] = []
        for _step in range(int(seconds / STEP)):
            self.now += STEP
            alive = WorkerBeat.objects.exclude(boot_id__in=self.silent).filter(stopped_at=None)
            alive.update(number=F("number") + 1, beat_at=timezone.now())
            done += self.reaper()
        return done


@pytest.fixture
def world(database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> World:
    settings.TASKOPS = {**settings.TASKOPS, "JOURNAL": "direct", "WORKER_TIMEOUT": TIMEOUT}
    monkeypatch.setattr(roll_call, "answering", frozenset)
    monkeypatch.setattr(undelivered, "search_of", lambda _app: None)
    return World()


def started(name: str = "shop.tasks.price", **executor: Any) -> TaskRun:
    story = Story(name=name)
    writer.apply([story.published(), story.started()])
    run: TaskRun = TaskRun.objects.get(task_id=story.task_id)
    TaskRun.objects.filter(pk=run.pk).update(**{"boot_id": WORKER.boot_id, **executor})
    run.refresh_from_db()
    return run


def fate(run: TaskRun) -> tuple[str, str]:
    run.refresh_from_db()
    return run.state, run.reason


def test_a_worker_that_has_started_a_task_before_its_first_beat_came_through_is_not_lost(world: World) -> None:
    world.go_on(300)
    run = started()
    world.go_on(TIMEOUT - 10)
    assert fate(run) == ("STARTED", "")
    world.go_on(30)
    assert fate(run) == ("FAILURE", "worker_lost")


def test_one_that_answers_lives_although_its_beats_do_not_come_through(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.beat(WORKER.boot_id)
    run = started()
    world.silent.add(WORKER.boot_id)
    monkeypatch.setattr(roll_call, "answering", lambda: frozenset({WORKER.boot_id}))
    world.go_on(300)
    assert fate(run) == ("STARTED", "")
    monkeypatch.setattr(roll_call, "answering", frozenset)
    world.go_on(30)
    assert fate(run) == ("FAILURE", "worker_lost")


def test_a_host_whose_spool_is_late_proves_nothing(world: World) -> None:
    beat = world.beat(WORKER.boot_id, details={"lag_seconds": 900})
    run = started()
    world.silent.add(WORKER.boot_id)
    world.go_on(300)
    assert fate(run) == ("STARTED", "")
    WorkerBeat.objects.filter(pk=beat.pk).update(details={"lag_seconds": 1})
    world.go_on(30)
    assert fate(run) == ("FAILURE", "worker_lost")


def test_the_last_words_of_a_dead_worker_about_its_spool_do_not_hold_where_somebody_lives(world: World) -> None:
    world.beat(WORKER.boot_id, host="shared", details={"lag_seconds": 900})
    successor = world.beat("successor", host="shared", details={"lag_seconds": 900})
    run = started()
    world.silent.add(WORKER.boot_id)
    world.go_on(300)
    assert fate(run) == ("STARTED", "")
    WorkerBeat.objects.filter(pk=successor.pk).update(details={"lag_seconds": 0})
    world.go_on(30)
    assert fate(run) == ("FAILURE", "worker_lost")


def test_a_host_that_never_comes_back_is_given_up_though_its_spool_was_late(world: World) -> None:
    world.beat(WORKER.boot_id, details={"lag_seconds": 900})
    run = started()
    world.silent.add(WORKER.boot_id)
    world.go_on(9 * TIMEOUT)
    assert fate(run) == ("STARTED", "")
    world.go_on(2 * TIMEOUT)
    assert fate(run) == ("FAILURE", "worker_lost")


def test_what_is_put_back_by_itself_has_a_letter_even_if_its_task_wants_none(world: World) -> None:
    run = started(idempotent.name)
    world.go_on(200)
    assert fate(run) == ("FAILURE", "worker_lost")
    assert DeadLetter.objects.get(run=run).status == LetterStatus.OPEN
    assert OutboxEntry.objects.get(kind=OutboxKind.RERUN).payload["run"] == run.pk


def test_a_worker_that_has_shut_down_was_not_taken_down(world: World) -> None:
    """Three deployments in a row make nothing poison."""
    story = Story()
    for number in range(4):
        boot = f"boot-{number}"
        story.delivery = f"d-{number}"
        writer.apply([story.published(), story.started()])
        TaskRun.objects.update(boot_id=boot, acks_late=True)
        world.beat(boot, stopped_at=timezone.now())
        world.go_on(100)
    run = TaskRun.objects.get()
    assert fate(run) == ("RETRY", "cancelled")
    assert [attempt.reason for attempt in run.attempts.all()] == ["cancelled"] * 4
    assert not DeadLetter.objects.exists()


def test_one_that_was_shut_down_on_leaves_a_letter_that_says_so(world: World) -> None:
    world.beat(WORKER.boot_id, stopped_at=timezone.now())
    run = started()
    world.go_on(100)
    assert fate(run) == ("FAILURE", "cancelled")
    assert "has shut down at" in DeadLetter.objects.get(run=run).description


def test_what_had_ended_before_its_worker_shut_down_may_say_so_late(world: World) -> None:
    world.beat(WORKER.boot_id, stopped_at=timezone.now())
    story = Story()
    writer.apply([story.published(), story.started()])
    world.go_on(100)
    writer.apply([story.ended(EventKind.RETURNED)])
    assert fate(TaskRun.objects.get()) == ("SUCCESS", "")
    assert DeadLetter.objects.get().status == LetterStatus.RESOLVED


@pytest.mark.django_db(transaction=True)
def test_what_follows_a_lost_task_waits_in_vain_and_again_where_its_re_run_is_lost(
    world: World, queue: BrokerQueue
) -> None:
    last: Any = chain(tasks.add.s(1, 1), tasks.add.s(2), tasks.add.s(3)).delay()
    head = TaskRun.objects.get(task_id=last.parent.parent.id)
    behind = [last.parent.id, last.id]
    for generation, boot_id in enumerate(("first", "second")):
        world.silent.add(boot_id)
        begin(head, world.beat(boot_id))
        world.go_on(3 * TIMEOUT)
        assert fate(head) == ("FAILURE", "worker_lost")
        assert head.generation == generation
        assert [fate(TaskRun.objects.get(task_id=step)) for step in behind] == [("FAILURE", "upstream_failed")] * 2
        requeue(head.dead_letters.get(status=LetterStatus.OPEN))
        assert [TaskRun.objects.get(task_id=step).state for step in behind] == ["PENDING"] * 2


def test_a_canvas_that_nobody_can_read_keeps_no_run_from_its_end(world: World) -> None:
    odd_chain = envelope({}, chain=5)
    odd_step = envelope(
        {}, chain=[{"task": "shop.tasks.mail", "options": {"task_id": "mail", "queue": {"no": "name"}}}]
    )
    runs = [started(), started(), started()]
    for run, message in zip(runs, (odd_chain, odd_step, None), strict=True):
        RunEnvelope.objects.update_or_create(run=run, defaults={"envelope": message})
    world.go_on(3 * TIMEOUT)

    assert [fate(run) for run in runs] == [("FAILURE", "worker_lost")] * 3


def begin(run: TaskRun, beat: WorkerBeat) -> None:
    told = {"delivery": str(uuid4()), "boot_id": beat.boot_id, "worker": beat.worker, "started_at": timezone.now()}
    TaskRun.objects.filter(pk=run.pk).update(state="STARTED", verdict="started", **told)


def test_one_odd_task_keeps_nobody_from_the_others(world: World) -> None:
    strange = started(odd.name)
    others = [started() for _ in range(3)]
    world.go_on(200)
    assert [fate(run) for run in others] == [("FAILURE", "worker_lost")] * 3
    assert fate(strange) == ("STARTED", "")


def test_what_runs_eagerly_is_nobodys_to_judge(world: World) -> None:
    run = started(boot_id="")
    world.go_on(400)
    assert fate(run) == ("STARTED", "")


@pytest.mark.parametrize(("acks_late", "expected"), [(False, ("FAILURE", "end_lost")), (True, ("RETRY", "end_lost"))])
def test_what_a_live_worker_does_not_name_any_more(world: World, acks_late: bool, expected: tuple[str, str]) -> None:  # noqa: FBT001
    world.beat(WORKER.boot_id, details={"running": [["other", "other", "x"]], "reserved": [], "held": 1})
    run = started(acks_late=acks_late, started_at=timezone.now() - timedelta(hours=1))
    world.go_on(200)
    assert fate(run) == expected


@pytest.mark.parametrize(
    "details",
    [
        {"running": [], "reserved": [], "held": 5},
        {"running": [], "reserved": [], "held": -1},
        {"running": [], "reserved": [], "held": 0, "lag_seconds": 100},
    ],
    ids=["more than it names", "unknown", "late"],
)
def test_a_beat_that_does_not_say_all_proves_nothing(world: World, details: dict[str, Any]) -> None:
    world.beat(WORKER.boot_id, details=details)
    run = started(started_at=timezone.now() - timedelta(hours=1))
    world.go_on(300)
    assert fate(run) == ("STARTED", "")


class _Nowhere:
    """A broker that has nothing."""

    def look(self, queues: object) -> None: ...

    def missing(self, sent: dict[str, Sent], seen: Seen, _seconds: float) -> set[str]:
        return set(sent) if seen.whole else set()


@pytest.mark.parametrize(
    ("tasks", "pool", "expected"),
    [
        (["shop.tasks.price"], "prefork", ("FAILURE", "undelivered")),
        (["another"], "prefork", ("PENDING", "")),
        (["shop.tasks.price"], "solo", ("PENDING", "")),
    ],
    ids=["known", "of workers without this app", "maybe in the socket of a busy worker"],
)
def test_what_nobody_has_received_is_lost_only_where_that_is_certain(
    world: World, monkeypatch: pytest.MonkeyPatch, tasks: list[str], pool: str, expected: tuple[str, str]
) -> None:
    monkeypatch.setattr(undelivered, "search_of", lambda _app: _Nowhere())
    world.beat("a", tasks=tasks, pool=pool, details={"running": [["d", "t", "x"]], "reserved": [], "held": 1})
    run = TaskRunFactory(published=timezone.now() - timedelta(hours=2))
    world.go_on(300)
    assert fate(run) == expected


def test_beside_a_broker_that_cannot_be_asked_a_redelivery_is_not_waited_for_for_ever(world: World) -> None:
    run = started(acks_late=True)
    world.go_on(200)
    assert fate(run) == ("RETRY", "worker_lost")
    TaskRun.objects.filter(pk=run.pk).update(retry_at=timezone.now() - timedelta(days=1))
    world.go_on(200)
    assert fate(run) == ("FAILURE", "worker_lost")
    assert DeadLetter.objects.get(run=run).status == LetterStatus.OPEN


@pytest.mark.parametrize(
    ("after", "run"),
    [(10**12, {}), (3600, {"received_at": datetime(2026, 1, 1, tzinfo=UTC), "eta": datetime.max.replace(tzinfo=UTC)})],
    ids=["a setting", "an eta"],
)
def test_what_is_never_due_stops_nobody_else(world: World, settings: Settings, after: int, run: dict[str, Any]) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "UNDELIVERED_AFTER": after}
    never = TaskRunFactory(published=timezone.now() - timedelta(hours=2), **run)
    lost = started(acks_late=True)
    world.go_on(200)
    TaskRun.objects.filter(pk=lost.pk).update(retry_at=timezone.now() - timedelta(days=1))
    world.go_on(200)
    assert fate(never) == ("PENDING", "")
    assert fate(lost) == ("FAILURE", "worker_lost")


def test_ten_thousand_that_run_cost_a_constant_number_of_queries(
    world: World, django_assert_max_num_queries: Any, database: str
) -> None:
    held = [[f"d{number}", f"t{number}", "x"] for number in range(1000)]
    world.beat(WORKER.boot_id, details={"running": held, "reserved": [], "held": 1000})
    TaskRun.objects.bulk_create(
        TaskRun(task_id=f"t{number}", delivery=f"d{number}", state="STARTED", verdict="started",
                boot_id=WORKER.boot_id, started_at=timezone.now() - timedelta(hours=1))
        for number in range(1000)
    )  # fmt: skip
    world.go_on(TIMEOUT + 10)
    with django_assert_max_num_queries(30, using=database):
        assert not world.go_on(7)
