"""Which workers live, as their beats tell and by the clock of the database. Reads only."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.models import F, QuerySet, TextChoices
from django.utils import timezone
from django.utils.translation import pgettext_lazy

from ..conf import conf
from ..events import Held
from ..models import WorkerBeat
from ..projection.beats import MAX_TASKS
from ..projection.clock import DatabaseNow

MAX_WORKERS = 200
REAPER = "taskops_reap"  # what a process that reaps by hand says of itself: it beats, and runs nothing
AHEAD = timedelta(seconds=5)
BEHIND = timedelta(seconds=60)  # a beat travels for a while, so that an older instant proves little


class WorkerState(TextChoices):
    ALIVE = "alive", pgettext_lazy("worker", "alive")
    SILENT = "silent", pgettext_lazy("worker", "silent")
    STOPPED = "stopped", pgettext_lazy("worker", "stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenWorker:
    """One boot of a worker, as it was heard of last, `age` ago; None where nobody knows when.

    `held` counts what it runs and holds, though not all be listed. `clock_off` is how far the clock of its host is
    ahead of the database's, negative where it is behind; None where it is in step, as far as a beat can tell.
    `started_at`, `beat_at` and `stopped_at` are that clock's.
    """

    pk: int
    boot_id: str
    name: str
    host: str
    pid: int | None
    pool: str
    concurrency: int | None
    version: str
    state: WorkerState
    age: timedelta | None
    started_at: datetime
    beat_at: datetime
    stopped_at: datetime | None
    queues: tuple[str, ...]
    running: tuple[Held, ...]
    reserved: tuple[Held, ...]
    held: int
    clock_off: timedelta | None

    @property
    def alive(self) -> bool:
        return self.state is WorkerState.ALIVE

    @property
    def listed_in_full(self) -> bool:
        return self.held <= len(self.running) + len(self.reserved)


def seen() -> list[SeenWorker]:
    """The workers that were heard of last, the newest boot first, without processes that only reap. One query."""
    rows = with_clock(WorkerBeat.objects.exclude(pool=REAPER).defer("tasks")).order_by(
        F("applied_at").desc(nulls_last=True), "-pk"
    )
    return sorted((of_row(row) for row in rows[:MAX_WORKERS]), key=lambda worker: -worker.pk)


def with_clock(rows: QuerySet[Any]) -> QuerySet[Any]:
    """Rows with what `of_row` has to know of the database's clock."""
    clocked: QuerySet[Any] = rows.annotate(db_now=DatabaseNow())
    return clocked


def of_row(row: Any) -> SeenWorker:
    """A row of `with_clock`."""
    details = row.details if isinstance(row.details, dict) else {}
    running, reserved = _held(details.get("running")), _held(details.get("reserved"))
    age = None if row.applied_at is None else max(row.db_now - row.applied_at, timedelta(0))
    state = _state(row, age)
    return SeenWorker(
        pk=row.pk,
        boot_id=row.boot_id,
        name=row.worker,
        host=row.host,
        pid=row.pid,
        pool=row.pool,
        concurrency=_number(details.get("concurrency")),
        version=row.version,
        state=state,
        age=age,
        started_at=row.started_at,
        beat_at=row.beat_at,
        stopped_at=row.stopped_at,
        queues=_texts(details.get("queues")),
        running=running,
        reserved=reserved,
        held=_number(details.get("held")) or len(running) + len(reserved),
        clock_off=_clock_off(row, details) if state is WorkerState.ALIVE else None,
    )


def registered(boot_ids: Collection[str]) -> dict[str, frozenset[str]]:
    """The names of the tasks of these boots; without a boot whose tasks are not known, or not all of them. One query,
    none without boots."""
    rows = WorkerBeat.objects.filter(boot_id__in=boot_ids).values_list("boot_id", "tasks") if boot_ids else ()
    named = {boot_id: _texts(tasks) for boot_id, tasks in rows}
    return {boot_id: frozenset(tasks) for boot_id, tasks in named.items() if 0 < len(tasks) < MAX_TASKS}


def registered_by_all() -> frozenset[str] | None:
    """The names of the tasks that live workers have registered, together; None where none lives, or the tasks of one
    are not known. Two queries."""
    alive = [worker.boot_id for worker in seen() if worker.alive]
    named = registered(alive)
    return frozenset().union(*named.values()) if alive and len(named) == len(alive) else None


def _state(row: WorkerBeat, age: timedelta | None) -> WorkerState:
    if row.stopped_at is not None:
        return WorkerState.STOPPED
    heard = age is not None and age <= timedelta(seconds=conf.WORKER_TIMEOUT)
    return WorkerState.ALIVE if heard else WorkerState.SILENT


def _clock_off(row: WorkerBeat, details: dict[str, Any]) -> timedelta | None:
    if row.applied_at is None:
        return None
    off = _aware(row.beat_at) - _of_database(row.applied_at)
    lag = details.get("lag_seconds")
    waited = timedelta(seconds=lag if isinstance(lag, (int, float)) else 0)
    return off if off > AHEAD or off < -BEHIND - waited else None


def _of_database(instant: datetime) -> datetime:
    """What the database's own clock has written: PostgreSQL's alone knows the time zone of the project."""
    if not settings.USE_TZ and connections[conf.DATABASE].vendor != "postgresql":
        return instant.replace(tzinfo=UTC)
    return _aware(instant)


def _aware(instant: datetime) -> datetime:
    return timezone.make_aware(instant) if timezone.is_naive(instant) else instant


def _held(value: object) -> tuple[Held, ...]:
    items = value if isinstance(value, list) else []
    return tuple(Held(*item) for item in items if len(_texts(item)) == len(Held._fields))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
