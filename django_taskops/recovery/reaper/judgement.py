"""A verdict on a run that nobody else will end: written under the lock of its row, given up where it has gone on."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from celery import current_app
from django.db import InterfaceError, OperationalError, transaction

from ... import journal
from ...capture import headers as own
from ...capture.downstream import MAX_STEPS, steps, upstream_failed
from ...capture.meaning import routing
from ...conf import conf
from ...events import Event, EventKind, Outcome
from ...models import AuditAction, AuditEntry, OutboxEntry, OutboxKind, RunEnvelope, TaskAttempt, TaskRun
from ...projection import writer
from ...states import DeadLetterReason
from ..canvas import following

CHUNK = 200

logger = logging.getLogger("django_taskops")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`description` says why, with the evidence. It is about the delivery that the run shows, about that of `attempt`,
    or about one named `delivery`, that never came. `retry_at` is when the broker delivers it again by. `rerun` puts its
    letter back by itself."""

    run: TaskRun
    attempt: TaskAttempt | None = None
    kind: EventKind
    reason: str
    description: str
    delivery: str = ""
    retries: int | None = None
    retry_at: datetime | None = None
    rerun: bool = False

    @property
    def about(self) -> TaskRun | TaskAttempt:
        return self.attempt or self.run

    def event(self) -> Event:
        run, about = self.run, self.about
        outcome = Outcome(
            reason=self.reason,
            exception_message=self.description,
            retry_at=self.retry_at,
            **{
                **_routing(run.task_name),
                **({"dead_letter": True} if self.rerun else {}),  # it is what is put back
                **({"parked": False} if self.kind is EventKind.REVOKED else {}),
            },
        )
        return Event(
            kind=self.kind,
            task_id=run.task_id,
            task_name=run.task_name,
            at=datetime.now(UTC),
            publication=about.publication,
            generation=about.generation,
            nesting=about.nesting,
            retries=about.retries if self.retries is None else self.retries,
            delivery=self.delivery or about.delivery,
            outcome=outcome,
        )


def _routing(task_name: str) -> dict[str, Any]:
    """As the task declares it, where this process knows the task."""
    task = current_app.tasks.get(task_name)
    return {"dead_letter": conf.DEAD_LETTER == "all"} if task is None else routing(task)


def execute(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Those that were carried out; quietly not those whose run has gone on meanwhile."""
    done: list[Judgement] = []
    for start in range(0, len(judgements), CHUNK):
        done += _execute_safely(judgements[start : start + CHUNK])
    for each in done:
        if each.reason == DeadLetterReason.POISON:
            _keep_from_coming_again(each)
    return done


def _execute_safely(judgements: Sequence[Judgement]) -> list[Judgement]:
    """One that can't be written keeps nobody from the others. Raises where the database is away."""
    try:
        return _execute({each.run.pk: each for each in judgements})
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        if len(judgements) > 1:
            return [done for each in judgements for done in _execute_safely([each])]
        logger.exception("django-taskops: %s can't be given the end it has come to", judgements[0].run.task_id)
        return []


def _execute(judgements: Mapping[int, Judgement]) -> list[Judgement]:
    with transaction.atomic(using=conf.DATABASE):
        writer.lock_for_writing()
        runs = TaskRun.objects.select_for_update().filter(pk__in=judgements).order_by("pk")
        standing = [judgements[run.pk] for run in runs if _stands_as(judgements[run.pk].run, run)]
        ends = {each.run.pk: each.event() for each in standing}
        writer.apply([*ends.values(), *_of_what_follows(standing, ends)])
        AuditEntry.objects.bulk_create(map(_audit, standing))
        OutboxEntry.objects.bulk_create(_reruns(standing), ignore_conflicts=True)
    return standing


def _of_what_follows(judgements: Iterable[Judgement], ends: Mapping[int, Event]) -> Iterator[Event]:
    """That the next steps of their chains and the bodies of their chords wait in vain, each told once, as workers tell
    it of what fails there. Else a step that waits again since a requeue would wait for ever."""
    final = [each.run.pk for each in judgements if not (each.rerun or each.kind is EventKind.ABANDONED)]
    told: set[str] = set()
    for pk, blob in RunEnvelope.objects.filter(run__in=final).values_list("run", "envelope"):
        follows, end = following(blob), ends[pk]
        if follows.envelope is None or (end.outcome and end.outcome.parked):
            continue
        root = follows.envelope.headers.get("root_id")
        for task_id, step in islice(steps(*follows.canvas), MAX_STEPS):
            if task_id not in told and (event := upstream_failed(end, task_id, step, root)):
                told.add(task_id)
                yield event


def _stands_as(judged: TaskRun, found: TaskRun) -> bool:
    return _place(judged) == _place(found)


def _place(run: TaskRun) -> tuple[object, ...]:
    return (run.delivery, run.verdict, run.state, run.publication, run.generation)


def _audit(judgement: Judgement) -> AuditEntry:
    run = judgement.run
    about = judgement.about
    return AuditEntry(
        action=AuditAction.REAP,
        why=judgement.description,
        object_type="task_run",
        object_id=str(run.pk),
        task_id=run.task_id,
        outcome="redelivery" if judgement.kind is EventKind.ABANDONED else judgement.reason,
        details={"delivery": judgement.delivery or about.delivery, "worker": about.worker, "boot_id": about.boot_id},
    )


def _reruns(judgements: Iterable[Judgement]) -> list[OutboxEntry]:
    return [
        OutboxEntry(
            kind=OutboxKind.RERUN,
            key=f"{OutboxKind.RERUN}:{each.run.pk}:{each.run.publication}:{each.run.generation}",
            payload={
                "run": each.run.pk,
                "publication": each.run.publication,
                "generation": each.run.generation,
                "why": each.description,
            },
        )
        for each in judgements
        if each.rerun
    ]


def _keep_from_coming_again(judgement: Judgement) -> None:
    """The broker may still have a message that keeps killing workers: those with this app refuse it from now on."""
    run = judgement.run
    key = own.superseded(run.task_id, run.publication, run.generation)
    if not key:
        return
    try:
        journal.current().claim_all({key: "it keeps killing workers, and waits as a dead letter"})
    except Exception:
        logger.warning("django-taskops: %s may come again and kill a worker", run.task_id, exc_info=True)
