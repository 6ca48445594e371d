"""Sends that no worker has received and that the broker does not have: purged, wrongly routed, lost with its Redis."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from celery import current_app
from django.utils import timezone

from ...capture.envelope import Envelope
from ...capture.pulse import seconds_between_beats
from ...conf import conf
from ...events import EventKind
from ...exceptions import EnvelopeError
from ...models import RunEnvelope, TaskRun, WorkerBeat
from ...states import DeadLetterReason, TaskState
from . import redelivery
from .judgement import Judgement
from .search import Search, Seen, Sent, search_of

WAITING = (TaskState.PENDING, TaskState.RECEIVED, TaskState.RETRY)
CHUNK = 500
LOOKS_IN_TIME = 10
LONGEST_SECONDS = 60.0
POOLS_OF_MAIN = ("solo", "gevent", "eventlet")


class Undelivered:
    """Looks at some of the waiting runs each time, and judges those that it finds missing twice."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._search: Search | None = None
        self._due = 0.0
        self._after = dict.fromkeys(WAITING, 0)  # primary keys: where the next look goes on
        self._missing: frozenset[int] = frozenset()

    def judge(self, beats: Collection[WorkerBeat]) -> list[Judgement]:
        """`beats` are those of the workers that live. Raises what the broker's client raises."""
        if self._clock() < self._due and not self._missing:
            return []
        self._due = self._clock() + _seconds_between_looks()
        self._search = self._search or search_of(current_app)
        if self._search is None:
            return [_judgement(run) for run in self._next() if _has_long_been_due(run)]
        seen = _seen(beats)
        self._search.look(seen.queues)
        suspects, self._missing = self._missing, frozenset()
        again = [run for run in TaskRun.objects.filter(pk__in=suspects, state__in=WAITING) if _is_overdue(run)]
        judged = [_judgement(run) for run in self._gone(self._search, again, seen)]
        known = _known_tasks()
        suspected = [run for run in self._next() if run.task_name in known or run.verdict == EventKind.ABANDONED]
        self._missing = frozenset(run.pk for run in self._gone(self._search, suspected, seen))
        return judged

    def _gone(self, search: Search, runs: Sequence[TaskRun], seen: Seen) -> list[TaskRun]:
        """Those of `runs` that neither the broker nor a worker has."""
        found: list[TaskRun] = []
        for seconds, some in _by_evidence(runs):
            missing = search.missing(_sent(some), seen, seconds) if some else set()
            found += [run for run in some if run.task_id in missing]
        return found

    def _next(self) -> list[TaskRun]:
        """The next of each state, the oldest first, and from the beginning again after those that are too young."""
        found = []
        for state in WAITING:
            rows = list(TaskRun.objects.filter(state=state, pk__gt=self._after[state]).order_by("pk")[:CHUNK])
            overdue = [run for run in rows if _is_overdue(run)]
            at_end = len(rows) < CHUNK or not overdue
            self._after[state] = 0 if at_end else rows[-1].pk
            found += overdue
        if any(self._after.values()):
            self._due = self._clock() + seconds_between_beats()  # the rest need not wait
        return found


def _seconds_between_looks() -> float:
    return max(min(conf.UNDELIVERED_AFTER / LOOKS_IN_TIME, LONGEST_SECONDS), seconds_between_beats())


def _is_overdue(run: TaskRun) -> bool:
    """True where a worker should have had it by now. Instants of several hosts: an hour is more than they differ."""
    due = _due(run)
    return due is not None and due < datetime.now(UTC)


def _has_long_been_due(run: TaskRun) -> bool:
    """Beside a broker that can't be asked: what it should have delivered again, and has not for twice the time."""
    due = _due(run) if run.verdict == EventKind.ABANDONED else None
    return due is not None and due + redelivery.longest_wait(current_app) < datetime.now(UTC)


def _known_tasks() -> frozenset[str]:
    """What workers with this app have registered, as far as is known. The others don't tell what they receive."""
    return frozenset(name for tasks in WorkerBeat.objects.values_list("tasks", flat=True) for name in tasks)


def _due(run: TaskRun) -> datetime | None:
    if run.verdict == EventKind.ABANDONED and run.retry_at is not None:
        return _aware(run.retry_at)
    known = (run.enqueued_at, run.received_at, run.finished_at, run.retry_at, run.eta if run.received_at else None)
    last = max((at for instant in known if (at := _aware(instant)) is not None), default=None)
    with suppress(OverflowError):  # beyond the calendar: never
        return None if last is None else last + timedelta(seconds=conf.UNDELIVERED_AFTER)
    return None


def _aware(instant: datetime | None) -> datetime | None:
    return timezone.make_aware(instant) if instant is not None and timezone.is_naive(instant) else instant


def _by_evidence(runs: Iterable[TaskRun]) -> Iterator[tuple[float, list[TaskRun]]]:
    """With the seconds for which a queue of RabbitMQ must have been empty."""
    runs = list(runs)
    yield float(conf.UNDELIVERED_AFTER), [run for run in runs if run.verdict != EventKind.ABANDONED]
    yield float(conf.WORKER_TIMEOUT), [run for run in runs if run.verdict == EventKind.ABANDONED]


def _seen(beats: Collection[WorkerBeat]) -> Seen:
    listed = [held for row in beats for held in (*row.running, *row.reserved)]
    queues = {name for row in beats for name in row.details.get("queues", ())} | set(current_app.amqp.queues)
    return Seen(
        held=frozenset(task_id for _delivery, task_id, _name in listed),
        queues=frozenset(queues),
        whole=all(map(_names_all, beats)),
    )


def _names_all(beat: WorkerBeat) -> bool:
    """False also of pools whose main process runs the tasks: what was sent to such a worker while it is busy may lie in
    its socket, unseen."""
    return beat.names_all and not (beat.running and beat.pool in POOLS_OF_MAIN)


def _sent(runs: Sequence[TaskRun]) -> dict[str, Sent]:
    """Where they were sent to, by task id; without those of which nobody knows."""
    rows = RunEnvelope.objects.filter(run__in=[run.pk for run in runs]).values_list("run", "envelope")
    envelopes = {pk: _envelope(blob) for pk, blob in rows}
    sent = {}
    for run in runs:
        envelope = envelopes.get(run.pk)
        if queue := run.queue or (envelope.queue if envelope else ""):
            sent[run.task_id] = Sent(queue=queue, exchange=envelope.exchange if envelope else "")
    return sent


def _envelope(blob: Any) -> Envelope | None:
    try:
        return Envelope.from_bytes(bytes(blob)) if blob else None
    except EnvelopeError:
        return None


def _judgement(run: TaskRun) -> Judgement:
    if run.verdict == EventKind.ABANDONED:
        said = f"{run.exception_message or 'put back'}; the broker has not delivered it again, and does not have it"
        reason = DeadLetterReason(run.reason or DeadLetterReason.UNDELIVERED)
        kind = EventKind.UNDELIVERED if reason == DeadLetterReason.UNDELIVERED else EventKind.WORKER_LOST
        return Judgement(run=run, kind=kind, reason=reason, description=said)
    retries = run.retries + (run.verdict == EventKind.RETRIED)
    expires = _aware(run.expires)
    if expires is not None and expires < datetime.now(UTC):
        kind, reason, said = EventKind.REVOKED, DeadLetterReason.EXPIRED, "it has expired in the broker"
    else:
        kind, reason = EventKind.UNDELIVERED, DeadLetterReason.UNDELIVERED
        said = f"sent to queue {run.queue}, no worker has received it, and the broker does not have it"
    return Judgement(
        run=run, kind=kind, reason=reason, description=said, delivery=_delivery(run, retries), retries=retries
    )


def _delivery(run: TaskRun, retries: int) -> str:
    """The same each time: of a message that never came."""
    send = (run.task_id, run.publication, run.generation, run.nesting, retries, "undelivered")
    return str(uuid5(NAMESPACE_OID, "/".join(map(str, send))))
