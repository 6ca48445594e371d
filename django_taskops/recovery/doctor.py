"""Answers "I sent the task and nothing happened": what is wrong with the system, and where a run is. Reads only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from celery import current_app
from django.db import Error
from django.db.models import Count, Q
from django.utils import timezone
from django.utils.timesince import timesince

from ..events import EventKind
from ..models import DeadLetter, TaskRun
from ..projection.blindness import Blindness
from ..projection.status import recent_status
from ..states import FINISHED, DeadLetterReason, LetterStatus, TaskState
from . import queues, workers
from .findings import Finding, Level
from .queues import QueueLook
from .workers import SeenWorker, WorkerState

STUCK_AFTER = timedelta(minutes=10)
SILENCE_SHOWN = timedelta(hours=1)  # whoever is silent for longer is history
TAKEN_WITHIN = timedelta(seconds=60)  # on its way from a queue to a worker's next beat
MAX_LETTERS = 1_000
MAX_READERS = 3


def examine() -> list[Finding]:
    """What is wrong; one good finding where nothing is. Raises for nothing that is down."""
    status = recent_status()
    found = [*_eager(), *map(_blind, status.blind)]
    try:
        seen = workers.seen()
        found += _system(seen, blind=_hides_workers(status.blind))
    except Error:  # the recorder is blind then, and has said so
        return [*found, *_broker(queues.recent(_declared()))]
    if any(finding.level is not Level.GOOD for finding in found):
        return found
    return [Finding(code="well", facts={"count": len(_live(seen))}), *found]


def examine_run(run: TaskRun) -> list[Finding]:
    """Where the run is, if it has not ended. Raises what the database raises."""
    if run.state in FINISHED:
        return [Finding(code="ended", facts={"state": run.get_state_display()})]
    seen = workers.seen()
    blind = recent_status().blind
    if run.state == TaskState.STARTED:
        return [*map(_blind, blind), _of_its_worker(run, seen, "running")]
    return [*map(_blind, blind), *_times(run), *_place(_Case(run, seen, blind=_hides_workers(blind)))]


def _eager() -> Iterator[Finding]:
    if current_app.conf.task_always_eager:
        yield Finding(code="eager")


def _blind(reason: Blindness) -> Finding:
    code = "recorder_dropped" if reason.code == "dropped" else "recorder_blind"
    return Finding(code=code, facts={"reason": reason.sentence})


def _hides_workers(blind: Sequence[Blindness]) -> bool:
    """Beats may be waiting in the journal: what is not heard of may live all the same."""
    return any(reason.code != "dropped" for reason in blind)


def _system(seen: Sequence[SeenWorker], *, blind: bool) -> Iterator[Finding]:
    live = _live(seen)
    if not blind:
        yield from () if live else [Finding(code="no_worker")]
        yield from map(_silent, _vanished(seen))
    yield from (_clock(worker) for worker in live if worker.clock_off is not None)
    yield from map(_stuck, _stuck_workers(live))
    looks = queues.recent(queues.known_names(seen))
    yield from _broker(looks)
    yield from (_unread(look) for look in looks if live and look.depth and not _is_read(look, live))
    yield from _unregistered(looks, live)
    yield from _unknown_tasks()


def _live(seen: Sequence[SeenWorker]) -> list[SeenWorker]:
    return [worker for worker in seen if worker.alive]


def _vanished(seen: Sequence[SeenWorker]) -> list[SeenWorker]:
    """Silent for not too long, and nobody has taken their name."""
    names = {worker.name for worker in seen if worker.alive}
    silent = [worker for worker in seen if worker.state is WorkerState.SILENT and worker.name not in names]
    return [worker for worker in silent if worker.age is not None and worker.age < SILENCE_SHOWN]


def _silent(worker: SeenWorker) -> Finding:
    return Finding(code="worker_silent", facts={"worker": worker.name, "time": _span(worker.age or timedelta(0))})


def _clock(worker: SeenWorker) -> Finding:
    off = worker.clock_off or timedelta(0)
    code = "clock_ahead" if off > timedelta(0) else "clock_behind"
    return Finding(code=code, facts={"worker": worker.name, "time": _span(abs(off))})


def _stuck(worker: SeenWorker) -> Finding:
    facts = {"worker": worker.name, "count": worker.concurrency, "waiting": len(worker.reserved)}
    return Finding(code="pool_stuck", facts=facts)


def _stuck_workers(live: Sequence[SeenWorker]) -> list[SeenWorker]:
    """Those whose every slot has been busy for long while more waits. One query, none where no pool is full."""
    full = [w for w in live if w.concurrency and len(w.running) >= w.concurrency and w.reserved]
    if not full:
        return []
    since = Q()
    for worker in full:
        since |= Q(boot_id=worker.boot_id, started_at__lt=worker.beat_at - STUCK_AFTER)  # by its host's clock, both
    runs = TaskRun.objects.filter(since, state=TaskState.STARTED).order_by()
    busy = dict(runs.values_list("boot_id").annotate(busy=Count("pk")))
    return [worker for worker in full if busy.get(worker.boot_id, 0) >= (worker.concurrency or 0)]


def _broker(looks: Sequence[QueueLook]) -> Iterator[Finding]:
    for look in looks[:1]:  # they share one connection, and its fate
        if look.code == queues.UNREACHABLE:
            yield Finding(code="broker_unreachable", facts={"error": look.error})
        if look.code == queues.UNASKED:
            yield Finding(code="broker_unasked")


def _is_read(look: QueueLook, live: Sequence[SeenWorker]) -> bool:
    return bool(look.consumers) or any(look.name in worker.queues for worker in live)


def _unread(look: QueueLook) -> Finding:
    return Finding(code="queue_unread", facts={"queue": look.name, "count": look.depth or 0})


def _unregistered(looks: Sequence[QueueLook], live: Sequence[SeenWorker]) -> Iterator[Finding]:
    """Tasks that wait for workers of which none knows them."""
    tasks = workers.registered([worker.boot_id for worker in live])
    filled = {look.name for look in looks if look.depth != 0}
    for queue, task in sorted(set(queues.waiting())):
        if queue in filled and _is_unknown(task, [worker for worker in live if queue in worker.queues], tasks):
            yield Finding(code="task_unregistered", facts={"queue": queue, "task": task})


def _is_unknown(task: str, readers: Sequence[SeenWorker], tasks: dict[str, frozenset[str]]) -> bool:
    return bool(readers) and all(task not in tasks.get(worker.boot_id, (task,)) for worker in readers)


def _unknown_tasks() -> Iterator[Finding]:
    newest = DeadLetter.objects.filter(status=LetterStatus.OPEN).order_by("-pk").values_list("reason", "task_name")
    names = [name for reason, name in newest[:MAX_LETTERS] if reason == DeadLetterReason.UNKNOWN_TASK]
    if names:
        yield Finding(code="unknown_tasks", facts={"count": len(names), "task": names[0]})


def _declared() -> list[str]:
    declared: Any = current_app.amqp.queues
    return sorted(declared)[: queues.MAX_NAMES]


@dataclass(frozen=True, slots=True)
class _Case:
    """A run that waits, and the workers there are. `blind` where nobody can tell which of them live."""

    run: TaskRun
    seen: Sequence[SeenWorker]
    blind: bool

    @property
    def readers(self) -> list[SeenWorker]:
        return [worker for worker in _live(self.seen) if self.run.queue in worker.queues]

    @property
    def holder(self) -> SeenWorker | None:
        """The live worker that has it."""
        for worker in _live(self.seen):
            held = {task.task_id for task in (*worker.running, *worker.reserved)}
            if self.run.task_id in held or (self.is_received and worker.boot_id == self.run.boot_id):
                return worker
        return None

    @property
    def is_received(self) -> bool:
        return self.run.verdict == EventKind.RECEIVED or self.run.state == TaskState.RECEIVED

    @property
    def is_abandoned(self) -> bool:
        return self.run.verdict == EventKind.ABANDONED


def _times(run: TaskRun) -> Iterator[Finding]:
    now = timezone.now()
    if run.verdict == EventKind.ABANDONED:
        if run.retry_at is not None:
            code = "redelivery_due" if run.retry_at > now else "redelivery_overdue"
            yield Finding(code=code, facts={"time": _exactly(run.retry_at)})
    elif run.state == TaskState.RETRY and run.retry_at is not None and run.retry_at > now:
        yield Finding(code="retry_due", facts={"time": _exactly(run.retry_at)})
    elif run.eta is not None and run.eta > now:
        yield Finding(code="not_due", facts={"time": _exactly(run.eta)})
    elif run.expires is not None and run.expires < now and run.state == TaskState.PENDING:
        yield Finding(code="expired", facts={"time": _exactly(run.expires)})


def _place(case: _Case) -> Iterator[Finding]:
    """Where it is: with a worker, or in its queue; or why it will not get from there to a worker."""
    holder = case.holder
    if holder is not None:
        yield _of_its_worker(case.run, case.seen, "held", holder)
        yield from map(_stuck, _stuck_workers([holder]))
        return
    if case.is_received:
        yield _of_its_worker(case.run, case.seen, "held")
    if not case.run.queue:
        yield Finding(code="queue_unknown")
        return
    (look,) = queues.recent([case.run.queue])
    yield from _broker([look])
    if not case.readers and not look.consumers:
        yield from _without_reader(case, look)
    elif _is_unknown(case.run.task_name, case.readers, workers.registered([w.boot_id for w in case.readers])):
        yield Finding(code="task_unregistered", facts={"queue": case.run.queue, "task": case.run.task_name})
    elif not case.is_received and not case.is_abandoned:
        yield _in_queue(case, look)
        stuck = _stuck_workers(case.readers)
        yield from map(_stuck, stuck if len(stuck) == len(case.readers) else ())


def _of_its_worker(run: TaskRun, seen: Sequence[SeenWorker], code: str, worker: SeenWorker | None = None) -> Finding:
    """`code` where the worker that has it lives, or where nobody has ever heard a beat of it."""
    known = worker or next((each for each in seen if each.boot_id == run.boot_id), None)
    gone = known is not None and not known.alive
    name = known.name if known else run.worker or "?"
    return Finding(code="worker_gone" if gone else code, facts={"worker": name})


def _without_reader(case: _Case, look: QueueLook) -> Iterator[Finding]:
    if case.blind:
        return
    if not _live(case.seen):
        yield Finding(code="no_worker")
    elif look.code == queues.ABSENT:
        yield Finding(code="queue_absent", facts={"queue": look.name})
    else:
        yield Finding(code="queue_unread", facts={"queue": look.name, "count": look.depth or 0})


def _in_queue(case: _Case, look: QueueLook) -> Finding:
    facts: dict[str, Any] = {"queue": look.name, "readers": _readers(case, look)}
    if look.depth:
        return Finding(code="in_queue", facts={**facts, "count": look.depth})
    if look.depth is None or _may_be_taken(case):
        return Finding(code="sent", facts=facts)
    return Finding(code="nowhere", facts={**facts, "unacknowledged": _shown(queues.unacknowledged())})


def _may_be_taken(case: _Case) -> bool:
    """Just now, or by a worker that holds more than it lists."""
    enqueued_at = case.run.enqueued_at
    just_sent = enqueued_at is None or timezone.now() - enqueued_at < TAKEN_WITHIN
    return just_sent or not all(worker.listed_in_full for worker in case.readers)


def _readers(case: _Case, look: QueueLook) -> str:
    names = sorted({worker.name for worker in case.readers})
    if not names:
        return str(look.consumers)
    return ", ".join([*names[:MAX_READERS], *(["…"] if len(names) > MAX_READERS else [])])


def _shown(count: int | None) -> str:
    return "?" if count is None else str(count)


def _span(span: timedelta) -> str:
    if span < timedelta(minutes=1):
        return f"{span.total_seconds():.0f} s"
    now = timezone.now()
    return timesince(now - span, now, depth=1)


def _exactly(instant: datetime) -> str:
    local = timezone.localtime(instant) if timezone.is_aware(instant) else instant
    return f"{local:%Y-%m-%d %H:%M:%S %Z}".strip()
