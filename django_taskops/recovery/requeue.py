"""Puts one dead letter back: decided once, written down before it is sent, sent with everything it had.

The intent row and the letter's new status are committed before the message is published, so that of any number of
people and processes one sends; a publish that fails opens the letter again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import Any

from celery import current_app
from django.db import transaction
from django.utils import timezone

from ..capture import headers as own
from ..capture.envelope import Envelope
from ..capture.text import storable_id
from ..conf import conf
from ..events import Call, Event, EventKind
from ..exceptions import NotRequeueable
from ..models import AuditAction, DeadLetter, OutboxEntry, OutboxKind, OutboxStatus, TaskRun
from ..projection import rows, writer
from ..states import LetterStatus
from . import preflight
from .broker import publish
from .decide import Decision, audit, take
from .message import Changes, message_for

INTERRUPTED_AFTER = timedelta(minutes=5)


def requeue(
    dead_letter: DeadLetter,
    *,
    by: Any = None,
    reason: str = "",
    attempts: str | int = "fresh",
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    queue: str | None = None,
    countdown: float | None = None,
    force: bool = False,
) -> Decision:
    """Sends the task of an open letter again: same task id, next generation, with all that follows it.

    `by` is a user, a name, or None for the app itself; `reason` is why. `attempts` grants "fresh" (the task's own
    policy from the start), "once" or that many starts. `args`, `kwargs` and `queue` replace the original ones, None
    keeps them; `countdown` in seconds. `force` overrides `stale_after`. Expired tasks, and those whose id has been
    published anew since, get a new id.

    Raises NotRequeueable (its `code` says why) and AlreadyTaken; then nothing has been sent, and a letter that was
    open is open. Must not be called inside a transaction: what is sent can't be rolled back.
    """
    changes = Changes.checked(attempts=attempts, args=args, kwargs=kwargs, queue=queue, countdown=countdown)
    preflight.check(dead_letter, force=force)
    sending = _commit_intent(dead_letter, changes)
    try:
        publish(current_app, sending.envelope)
    except Exception as error:  # whatever the broker's client raises: the letter must not hang
        _reopen(dead_letter, sending.intent, f"not sent: {error!r}", by, reason)
        raise NotRequeueable(
            "not_sent", f"the broker did not take the message, the letter is open again: {error!r}"
        ) from error
    return _confirm(dead_letter, sending, by, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sending:
    intent: OutboxEntry
    envelope: Envelope
    call: Call
    task_id: str
    generation: int


def _commit_intent(letter: DeadLetter, changes: Changes) -> _Sending:
    with preflight.outermost_transaction():
        run = TaskRun.objects.select_for_update().get(pk=letter.run_id)
        moves = preflight.needs_new_id(letter, run)
        generation = 0 if moves else run.generation + 1
        envelope = message_for(letter, generation, changes, new_id=moves)
        task_id = storable_id(envelope.headers["id"])
        sent = {"requeued_as": task_id} if moves else {"sent_generation": generation}
        take(letter, LetterStatus.OPEN, LetterStatus.REQUEUED, **sent)
        intent = OutboxEntry.objects.create(
            kind=OutboxKind.REQUEUE,
            key=f"{OutboxKind.REQUEUE}:{letter.pk}:{envelope.headers[own.NONCE]}",
            payload={"dead_letter": letter.pk, "nonce": envelope.headers[own.NONCE], "task_id": task_id},
        )
    return _Sending(
        intent=intent,
        envelope=envelope,
        call=changes.described(rows.run_of(run).call, envelope),
        task_id=task_id,
        generation=generation,
    )


def _confirm(letter: DeadLetter, sending: _Sending, by: Any, why: str) -> Decision:
    event = Event(
        kind=EventKind.PUBLISHED,
        task_id=sending.task_id,
        task_name=letter.task_name,
        at=datetime.now(UTC),
        position=time_ns() // 1000,
        call=replace(sending.call, requeued_from=letter.task_id if letter.requeued_as else ""),
        **own.identity(sending.envelope.headers),
    )
    with transaction.atomic(using=conf.DATABASE):
        writer.apply([event])
        _settle(sending.intent, OutboxStatus.DONE)
        audit(letter, AuditAction.REQUEUE, by=by, why=why, outcome="sent", generation=sending.generation)
    return Decision(
        action=AuditAction.REQUEUE,
        dead_letter_id=letter.pk,
        task_id=sending.task_id,
        generation=sending.generation,
        outcome="sent",
    )


def settle_interrupted() -> None:
    """Settles the intents of requeues whose process died on the way, five minutes after: the letter of one that has
    been heard of goes its way, any other is open again, and the audit says that nobody knows whether it was sent."""
    old = timezone.now() - INTERRUPTED_AFTER
    waiting = OutboxEntry.objects.filter(kind=OutboxKind.REQUEUE, status=OutboxStatus.PENDING, created_at__lt=old)
    for intent in waiting.order_by("pk")[:100]:
        with transaction.atomic(using=conf.DATABASE):
            letter = DeadLetter.objects.get(pk=intent.payload["dead_letter"])
            run = TaskRun.objects.select_for_update().get(pk=letter.run_id)
            letter.refresh_from_db(fields=["status", "sent_generation", "requeued_as"])
            if letter.status != LetterStatus.REQUEUED or _heard_of(letter, run):
                _settle(intent, OutboxStatus.DONE)
            else:
                _reopen(letter, intent, "interrupted: it is not known whether the message was sent", None, "")


def _heard_of(letter: DeadLetter, run: TaskRun) -> bool:
    if letter.requeued_as:
        return TaskRun.objects.filter(task_id=letter.requeued_as).exists()
    return (run.publication, run.generation) >= (letter.publication, letter.sent_generation or 0)


def _reopen(letter: DeadLetter, intent: OutboxEntry, outcome: str, by: Any, why: str) -> None:
    with transaction.atomic(using=conf.DATABASE):
        TaskRun.objects.select_for_update().get(pk=letter.run_id)
        take(letter, LetterStatus.REQUEUED, LetterStatus.OPEN, sent_generation=None, requeued_as="")
        _settle(intent, OutboxStatus.FAILED, outcome)
        audit(letter, AuditAction.REQUEUE, by=by, why=why, outcome=outcome)


def _settle(intent: OutboxEntry, status: OutboxStatus, error: str = "") -> None:
    OutboxEntry.objects.filter(pk=intent.pk).update(status=status, error=error, tries=1, available_at=timezone.now())
