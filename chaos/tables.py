"""What the app says at the end: its rows as plain values, for the verdict. Reads only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Epoch = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One delivery as the app tells it: the one that a run shows, or an attempt."""

    delivery: str = ""
    publication: str = ""
    generation: int = 0
    retries: int = 0
    state: str = "PENDING"
    reason: str = ""
    verdict: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    pid: int | None = None
    boot_id: str = ""
    exception_type: str = ""
    exception_message: str = ""
    traceback: str = ""

    @property
    def epoch(self) -> Epoch:
        return (self.publication, self.generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    pk: int
    publication: str
    generation: int
    status: str
    reason: str
    sent_generation: int | None = None
    requeued_as: str = ""
    has_message: bool = True

    @property
    def epoch(self) -> Epoch:
        return (self.publication, self.generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    task_id: str
    task_name: str
    shown: Delivery
    starts: int = 0
    attempts: Sequence[Delivery] = ()
    letters: Sequence[Letter] = ()

    def deliveries(self) -> list[Delivery]:
        """Each once: an attempt of the delivery that the run shows says no more of it."""
        others = [attempt for attempt in self.attempts if attempt.delivery != self.shown.delivery]
        return [self.shown, *others] if self.shown.delivery else others


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    action: str
    task_id: str
    outcome: str
    by: str
    object_id: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    runs: Mapping[str, Run]
    audit: Sequence[Audit] = ()
    boots: Mapping[str, int | None] = field(default_factory=dict)  # the process of each worker's boot
    quarantined: int = 0
    counted: Mapping[str, int] = field(default_factory=dict)  # what the app's own counters say


FINISHED = frozenset({"SUCCESS", "FAILURE", "REVOKED", "REJECTED", "IGNORED"})


def read() -> Tables:
    """Of the app's database."""
    from django_taskops.models import AuditEntry, QuarantinedEntry, TaskRun, WorkerBeat

    rows = TaskRun.objects.prefetch_related("attempts", "dead_letters")
    return Tables(
        runs={row.task_id: _run(row) for row in rows},
        audit=[_audit(row) for row in AuditEntry.objects.order_by("pk")],
        boots=dict(WorkerBeat.objects.values_list("boot_id", "pid")),
        quarantined=QuarantinedEntry.objects.count(),
        counted=_counted(),
    )


def unfinished() -> list[str]:
    """The ids of the runs that are not accounted for yet, those whose letter is under way included."""
    from django_taskops.models import DeadLetter, TaskRun
    from django_taskops.states import LetterStatus

    runs = TaskRun.objects.exclude(state__in=FINISHED).values_list("task_id", flat=True)
    letters = DeadLetter.objects.filter(status=LetterStatus.REQUEUED).values_list("task_id", flat=True)
    return sorted({*runs, *letters})


def interrupted() -> list[str]:
    """The requeues of which nobody knows yet whether they were sent."""
    from django_taskops.models import OutboxEntry, OutboxKind, OutboxStatus

    waiting = OutboxEntry.objects.filter(kind=OutboxKind.REQUEUE, status=OutboxStatus.PENDING)
    return list(waiting.values_list("key", flat=True))


def _run(row: Any) -> Run:
    return Run(
        task_id=row.task_id,
        task_name=row.task_name,
        shown=_delivery(row, row.retries),
        starts=row.starts(),
        attempts=[_delivery(attempt, attempt.retries) for attempt in row.attempts.all()],
        letters=[_letter(letter) for letter in sorted(row.dead_letters.all(), key=lambda letter: letter.pk)],
    )


def _letter(row: Any) -> Letter:
    return Letter(has_message=bool(row.envelope), **{name: getattr(row, name) for name in _LETTER})


_LETTER = ("pk", "publication", "generation", "status", "reason", "sent_generation", "requeued_as")
_DELIVERY = tuple(name for name in Delivery.__dataclass_fields__ if name != "retries")


def _delivery(row: Any, retries: int) -> Delivery:
    return Delivery(retries=retries, **{name: getattr(row, name) for name in _DELIVERY})


def _audit(row: Any) -> Audit:
    return Audit(
        action=row.action,
        task_id=row.task_id,
        outcome=row.outcome,
        by=row.user_name,
        object_id=row.object_id,
        details=row.details,
    )


def _counted() -> dict[str, int]:
    """Of the recorder."""
    from django.db.models import Sum

    from django_taskops.models import Recorder

    sums = Recorder.objects.aggregate(*(Sum(name, default=0) for name in ("quarantined", "dropped")))
    return {name.removesuffix("__sum"): value for name, value in sums.items()}
