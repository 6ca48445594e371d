"""What workers say of themselves becomes a row for each boot: the newest beat wins."""

from collections.abc import Iterable
from dataclasses import replace

from ..events import Beat
from ..models import WorkerBeat
from . import bulk
from .clock import DatabaseNow
from .rows import stored

MAX_TASKS = 2000  # registered with one worker, that are kept


def write(beats: Iterable[Beat]) -> None:
    """Two statements, whatever the number of beats; none without any."""
    newest: dict[str, Beat] = {}
    for beat in beats:
        known = newest.setdefault(beat.boot_id, beat)
        newest[beat.boot_id] = _newer(known, beat)
    if not newest:
        return
    held = {
        row.boot_id: row for row in WorkerBeat.objects.filter(boot_id__in=newest).only("boot_id", "number", "tasks")
    }
    news = [
        _row(beat, held.get(boot_id))
        for boot_id, beat in sorted(newest.items())
        if boot_id not in held or held[boot_id].number < beat.number
    ]
    bulk.upsert(WorkerBeat, news, unique=["boot_id"], update=_COLUMNS)


def _newer(one: Beat, other: Beat) -> Beat:
    """The newer of two, with what the older one alone says."""
    older, newer = sorted((one, other), key=lambda beat: beat.number)
    return newer if newer.tasks is not None else replace(newer, tasks=older.tasks)


def _row(beat: Beat, held: WorkerBeat | None) -> WorkerBeat:
    known = held.tasks if held else []
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
        tasks=known if beat.tasks is None else sorted(beat.tasks)[:MAX_TASKS],
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
