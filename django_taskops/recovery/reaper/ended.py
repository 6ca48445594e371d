"""Runs that their worker, which lives, does not run any more, and whose end nobody has told."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from ...events import EventKind
from ...models import TaskRun, WorkerBeat
from ...states import DeadLetterReason, TaskState
from .judgement import Judgement
from .restarts import Restarts

ABSENT_BEATS = 3
MAX_RUNS = 10_000


class Ended:
    """Remembers since which beat of its worker a delivery has not been named."""

    def __init__(self, restarts: Restarts) -> None:
        self._restarts = restarts
        self._absent: dict[str, int] = {}

    def forget(self) -> None:
        self._absent.clear()

    def judge(self, alive: Mapping[str, WorkerBeat]) -> list[Judgement]:
        """`alive` are the newest beats of the workers that live, by boot."""
        named = {boot: _named(beat) for boot, beat in alive.items() if _is_whole(beat)}
        absent = {}
        for pk, boot, delivery, task_id, started_at in _started(named):
            before = started_at is not None and started_at < alive[boot].beat_at  # one host, one clock
            if before and not {delivery, task_id} & named[boot]:
                absent[delivery] = pk, self._absent.get(delivery, alive[boot].number), boot
        self._absent = {delivery: number for delivery, (_pk, number, _boot) in absent.items()}
        due = [pk for pk, number, boot in absent.values() if alive[boot].number - number >= ABSENT_BEATS]
        runs = TaskRun.objects.filter(pk__in=due, state=TaskState.STARTED) if due else ()
        return [self._judgement(run, alive[run.boot_id]) for run in runs if run.boot_id in alive]

    def _judgement(self, run: TaskRun, beat: WorkerBeat) -> Judgement:
        said = f"worker {beat.worker} (host {beat.host}, process {beat.pid}) lives and does not run it any more"
        if self._restarts.happened_since(run.started_at):
            said += "; Redis was restarted meanwhile, so that its end may have been lost with it"
        if run.acks_late:  # it may have been put back: whether the broker has it is looked at next
            return _judged(run, EventKind.ABANDONED, said, retry_at=datetime.now(UTC))
        return _judged(run, EventKind.END_LOST, said)


def is_late(beat: WorkerBeat) -> bool:
    """True of a host whose spool waits for so long that nothing is certain about what ended there."""
    return bool(beat.lag_seconds > ABSENT_BEATS * beat.seconds)


def _judged(run: TaskRun, kind: EventKind, said: str, **facts: Any) -> Judgement:
    return Judgement(run=run, kind=kind, reason=DeadLetterReason.END_LOST, description=said, **facts)


def _named(beat: WorkerBeat) -> frozenset[str]:
    """The deliveries and the task ids that it names."""
    listed = [*beat.running, *beat.reserved]
    return frozenset(name for delivery, task_id, _task_name in listed for name in (delivery, task_id))


def _is_whole(beat: WorkerBeat) -> bool:
    """False where it does not name all that its worker holds, or where what ended on its host may not be known yet."""
    return beat.names_all and not is_late(beat)


def _started(boots: Collection[str]) -> Iterable[tuple[Any, ...]]:
    columns = ("pk", "boot_id", "delivery", "task_id", "started_at")
    started = TaskRun.objects.filter(state=TaskState.STARTED, boot_id__in=boots).order_by("boot_id", "started_at")
    return started.values_list(*columns)[:MAX_RUNS]
