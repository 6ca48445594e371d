"""What workers say of themselves becomes a row for each boot: the newest beat wins."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..events import Beat
from ..models import WorkerBeat
from . import bulk
from .clock import DatabaseNow
from .rows import stored

MAX_TASKS = 2000  # registered with one worker, that are kept


def write(beats: Iterable[Beat]) -> None:
    """Two statements, whatever the number of beats, three where a worker is new; none without any."""
    newest: dict[str, Beat] = {}
    for beat in beats:
        known = newest.setdefault(beat.boot_id, beat)
        newest[beat.boot_id] = _newer(known, beat)
    if not newest:
        return
    held = _locked(newest)
    if len(held) < len(newest):
        first = [_row(beat) for boot_id, beat in sorted(newest.items()) if boot_id not in held]
        bulk.upsert(WorkerBeat, first, unique=["boot_id"], update=["boot_id"])  # as it is, where another was first
        held = _locked(newest)
    rows = [(held[boot_id], beat) for boot_id, beat in sorted(newest.items())]
    news = [_row(beat, row.tasks) for row, beat in rows if beat.number > row.number]
    bulk.upsert(WorkerBeat, news, unique=["boot_id"], update=_COLUMNS)
    # A worker says its names seldom, and one that ends may have said them in no later beat.
    late = [_row(beat) for row, beat in rows if beat.number < row.number and beat.tasks and not row.tasks]
    bulk.upsert(WorkerBeat, late, unique=["boot_id"], update=["tasks"])


def _locked(boot_ids: Iterable[str]) -> dict[str, WorkerBeat]:
    """The rows that are there: of two writers, the one with the older beat must not be the last."""
    rows = WorkerBeat.objects.select_for_update().filter(boot_id__in=boot_ids).order_by("boot_id")
    return {row.boot_id: row for row in rows.only("boot_id", "number", "tasks")}


def _newer(one: Beat, other: Beat) -> Beat:
    """The newer of two, with what the older one alone says."""
    older, newer = sorted((one, other), key=lambda beat: beat.number)
    return newer if newer.tasks is not None else replace(newer, tasks=older.tasks)


def _row(beat: Beat, known: Sequence[str] = ()) -> WorkerBeat:
    """`known` are the names of its tasks where the beat does not say them."""
    return WorkerBeat(
        boot_id=beat.boot_id,
        worker=beat.worker,
        host=beat.host,
        pid=beat.pid,
        pool=beat.pool,
        version=beat.version,
        number=beat.number,
        seconds=beat.seconds,
        started_at=stored(beat.started_at),
        beat_at=stored(beat.at),
        applied_at=DatabaseNow(),
        stopped_at=stored(beat.at) if beat.stopped else None,
        tasks=list(known) if beat.tasks is None else sorted(beat.tasks)[:MAX_TASKS],
        details={
            "queues": beat.queues,
            "running": beat.running,
            "reserved": beat.reserved,
            "held": beat.held,
            "concurrency": beat.concurrency,
            "lag_seconds": beat.lag_seconds,
        },
    )


_COLUMNS = [
    "worker",
    "host",
    "pid",
    "pool",
    "version",
    "number",
    "seconds",
    "started_at",
    "beat_at",
    "applied_at",
    "stopped_at",
    "tasks",
    "details",
]
