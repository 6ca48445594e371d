"""Puts one dead letter back: decided once, written down before it is sent, sent with everything it had.

The intent row and the letter's new status are committed before the message is published, so that of any number of
people and processes one sends; a publish that fails opens the letter again.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from .. import journal
from ..capture import headers as own
from ..capture.call import app_of
from ..capture.envelope import Envelope
from ..capture.text import storable, storable_id
from ..conf import conf
from ..events import Call, Event, EventKind
from ..exceptions import NotRequeueable
from ..models import AuditAction, DeadLetter, OutboxEntry, OutboxKind, OutboxStatus, TaskRun
from ..projection import rows, writer
from ..states import LetterStatus
from . import preflight
from .broker import Unconfirmed, publish
from .decide import Decided, Decision, audit, person, take
from .message import Changes, message_for

logger = logging.getLogger("django_taskops")

INTERRUPTED_AFTER = timedelta(minutes=5)
MAX_SUPERSEDED = 20  # generations; those before have been superseded by the requeues before


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
    keeps them; `countdown` in seconds. `force` overrides `stale_after`, and that the broker has delivered the task
    again. Expired tasks, and those whose id has been published anew since, get a new id.

    Raises NotRequeueable (its `code` says why) and AlreadyTaken; then nothing has been sent, and a letter that was
    open is open, but for the code "not_confirmed", where nobody knows. Must not be called inside a transaction: what
    is sent can't be rolled back.
    """
    changes = Changes.checked(attempts=attempts, args=args, kwargs=kwargs, queue=queue, countdown=countdown)
    preflight.check(dead_letter, force=force)
    decision = Decided(by=person(by), why=reason)
    sending = _commit_intent(dead_letter, changes, decision, force=force)
    try:
        publish(app_of(sending.envelope), sending.envelope)
    except Unconfirmed as error:
        _supersede(dead_letter, sending)
        raise NotRequeueable(
            "not_confirmed",
            "the broker did not answer, it may have the message: the letter stays requeued, and opens again in five "
            f"minutes unless the task is heard of: {error}",
        ) from error
    except Exception as error:  # whatever the broker's client raises: the letter must not hang
        _reopen(dead_letter, sending.intent, f"not sent: {error!r}", decision, sent_generation=sending.earlier)
        raise NotRequeueable(
            "not_sent", f"the broker did not take the message, the letter is open again: {error!r}"
        ) from error
    _supersede(dead_letter, sending)
    return _confirm(dead_letter, sending, decision)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sending:
    intent: OutboxEntry
    earlier: int | None  # the generation of a send before this one that may have arrived
    envelope: Envelope
    call: Call
    task_id: str
    generation: int


def _commit_intent(letter: DeadLetter, changes: Changes, decision: Decided, *, force: bool) -> _Sending:
    with preflight.outermost_transaction():
        run = TaskRun.objects.select_for_update().get(pk=letter.run_id)
        letter.refresh_from_db(fields=["status", "sent_generation"])
        earlier = letter.sent_generation
        if not force:
            preflight.check_idle(letter, run)
        moves = preflight.needs_new_id(letter, run)
        generation = 0 if moves else max(run.generation, earlier or 0) + 1
        envelope = message_for(letter, generation, changes, new_id=moves)
        task_id = storable_id(envelope.headers["id"])
        sent = {"requeued_as": task_id} if moves else {"sent_generation": generation}
        take(letter, LetterStatus.OPEN, LetterStatus.REQUEUED, **sent)
        intent = OutboxEntry.objects.create(
            kind=OutboxKind.REQUEUE,
            key=f"{OutboxKind.REQUEUE}:{letter.pk}:{envelope.headers[own.NONCE]}",
            payload={
                "dead_letter": letter.pk,
                "nonce": envelope.headers[own.NONCE],
                "task_id": task_id,
                "generation": generation,
                **decision.as_payload(),
            },
        )
    return _Sending(
        intent=intent,
        earlier=earlier,
        envelope=envelope,
        call=changes.described(rows.run_of(run).call, envelope),
        task_id=task_id,
        generation=generation,
    )


def _supersede(letter: DeadLetter, sending: _Sending) -> None:
    """From now on workers refuse older messages of the task, should the broker deliver them again. Never raises: what
    runs twice then is the task's own business, as it is without us."""
    newer = sending.generation if not letter.requeued_as else letter.generation + 1
    try:
        for generation in range(max(letter.generation, newer - MAX_SUPERSEDED), newer):
            if key := own.superseded(letter.task_id, letter.publication, generation):
                journal.current().claim(key, f"it was put back as {sending.task_id}, generation {sending.generation}")
    except Exception:
        logger.warning("django-taskops: older messages of %s may run again", letter.task_id, exc_info=True)


def _confirm(letter: DeadLetter, sending: _Sending, decision: Decided) -> Decision:
    """Never raises: the message is on its way. What can't be written now is settled by the housekeeper, and the
    worker tells the whole call again."""
    outcome = "sent"
    try:
        _write_down(letter, sending, decision)
    except Exception:
        outcome = "sent, not confirmed"
        logger.warning("django-taskops: the requeue of %s is not confirmed yet", letter.task_id, exc_info=True)
    return Decision(
        action=AuditAction.REQUEUE,
        dead_letter_id=letter.pk,
        task_id=sending.task_id,
        generation=sending.generation,
        outcome=outcome,
    )


def _write_down(letter: DeadLetter, sending: _Sending, decision: Decided) -> None:
    event = Event(
        kind=EventKind.PUBLISHED,
        task_id=sending.task_id,
        task_name=letter.task_name,
        at=datetime.now(UTC),
        call=replace(sending.call, requeued_from=letter.task_id if letter.requeued_as else ""),
        **own.identity(sending.envelope.headers),
    )
    with transaction.atomic(using=conf.DATABASE):
        writer.apply([event])
        _settle(sending.intent, OutboxStatus.DONE)
        audit(letter, AuditAction.REQUEUE, decision, outcome="sent", generation=sending.generation)


def settle_interrupted() -> None:
    """Settles the intents of requeues that nobody has confirmed, five minutes after: the letter of one that has been
    heard of goes its way, any other is open again, and the audit says that nobody knows whether it was sent."""
    old = timezone.now() - INTERRUPTED_AFTER
    waiting = OutboxEntry.objects.filter(kind=OutboxKind.REQUEUE, status=OutboxStatus.PENDING, created_at__lt=old)
    for intent in waiting.order_by("pk")[:100]:
        with transaction.atomic(using=conf.DATABASE):
            letter = DeadLetter.objects.filter(pk=intent.payload["dead_letter"]).first()
            if letter is None:
                _settle(intent, OutboxStatus.FAILED, "the letter is gone")
                continue
            run = TaskRun.objects.select_for_update().get(pk=letter.run_id)
            if not OutboxEntry.objects.filter(pk=intent.pk, status=OutboxStatus.PENDING).exists():
                continue  # another process has settled it
            letter.refresh_from_db(fields=["status", "sent_generation", "requeued_as"])
            decision = Decided.from_payload(intent.payload)
            if letter.status == LetterStatus.REQUEUED and not _heard_of(letter, run):
                _reopen(
                    letter,
                    intent,
                    "interrupted: it is not known whether the message was sent",
                    decision,
                    sent_generation=letter.sent_generation,
                )
            else:
                _settle(intent, OutboxStatus.DONE)
                audit(letter, AuditAction.REQUEUE, decision, outcome="sent", generation=intent.payload["generation"])


def _heard_of(letter: DeadLetter, run: TaskRun) -> bool:
    if letter.requeued_as:
        return TaskRun.objects.filter(task_id=letter.requeued_as).exists()
    return (run.publication, run.generation) >= (letter.publication, letter.sent_generation or 0)


def _reopen(
    letter: DeadLetter, intent: OutboxEntry, outcome: str, decision: Decided, *, sent_generation: int | None
) -> None:
    """`sent_generation` is the newest one that the broker may have: the next send is a generation of its own."""
    with transaction.atomic(using=conf.DATABASE):
        TaskRun.objects.select_for_update().get(pk=letter.run_id)
        take(letter, LetterStatus.REQUEUED, LetterStatus.OPEN, requeued_as="", sent_generation=sent_generation)
        _settle(intent, OutboxStatus.FAILED, outcome)
        audit(letter, AuditAction.REQUEUE, decision, outcome=outcome)


def _settle(intent: OutboxEntry, status: OutboxStatus, error: str = "") -> None:
    OutboxEntry.objects.filter(pk=intent.pk).update(
        status=status, error=storable(error, 2000), tries=1, available_at=timezone.now()
    )
