"""Finishes requeues whose process has died, or whose broker has not answered.

Nobody can know whether the message was sent. So it is sent once more, under the same identity and with a nonce of its
own: of the two, the one that starts first claims the attempt, and the other does not run.
"""

from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from ..capture import headers as own
from ..capture.envelope import Envelope
from ..conf import conf
from ..exceptions import EnvelopeError, TaskOpsError
from ..models import AuditAction, DeadLetter, OutboxEntry, OutboxKind, OutboxStatus, TaskRun
from ..projection import rows
from ..states import LetterStatus
from . import canvas, intents
from .broker import Publisher
from .decide import Decided, audit
from .intents import Order, Sending
from .message import Changes, NewId, arguments_of, message_for
from .sending import older, put_on_broker, supersede

INTERRUPTED_AFTER = timedelta(minutes=1)
AT_ONCE = 100
MAX_TRIES = 12
LONGEST_WAIT_SECONDS = 600
UNKNOWN = "interrupted: it is not known whether the message was sent"


def finish_interrupted() -> None:
    """Where the re-run has been heard of, the letter goes its way; else the message is sent again. A broker that does
    not take it for some hours opens the letter again, and the audit says that nobody knows."""
    now = timezone.now()
    waiting = OutboxEntry.objects.filter(
        kind=OutboxKind.REQUEUE,
        status=OutboxStatus.PENDING,
        created_at__lt=now - INTERRUPTED_AFTER,
        available_at__lte=now,
    )
    with Publisher() as publisher:
        for intent in waiting.order_by("available_at", "pk")[:AT_ONCE]:
            _finish(intent, publisher)


def _finish(intent: OutboxEntry, publisher: Publisher) -> None:
    order = _order(intent.payload)
    sending = _prepared(intent, order)
    if sending is None:
        return
    if not put_on_broker([sending], publisher):
        intents.confirm([sending], order)
    elif intent.tries >= MAX_TRIES:
        intents.reopen(sending, order, UNKNOWN)
        if sending.moved:  # the next re-run has another id: what goes out under this one must not run beside it
            key = own.superseded(sending.moved.task_id, sending.moved.publication, sending.generation)
            supersede([(key, UNKNOWN)])


def _order(payload: Mapping[str, Any]) -> Order:
    """What somebody has decided, with the arguments that were put in the place of the original ones, where they can
    still be read."""
    changes = Changes.from_payload(payload.get("options", {}))
    with suppress(EnvelopeError):
        if (edited := _edited(payload)) and (arguments := arguments_of(edited)):
            changes = replace(changes, args=arguments[0], kwargs=arguments[1])
    return Order(changes=changes, decided=Decided.from_payload(payload), force=payload.get("force", False))


def _edited(payload: Mapping[str, Any]) -> Envelope | None:
    """Raises EnvelopeError."""
    return Envelope.from_bytes(b64decode(payload["envelope"])) if "envelope" in payload else None


def _prepared(intent: OutboxEntry, order: Order) -> Sending | None:
    """The message once more; None where there is nothing to send. Nobody else tries within the next minute."""
    with transaction.atomic(using=conf.DATABASE):
        letter = DeadLetter.objects.filter(pk=intent.payload["dead_letter"]).first()
        if letter is None:
            intents.settle([intent.key], OutboxStatus.FAILED, "the letter is gone")
            return None
        run = TaskRun.objects.select_for_update().get(pk=letter.run_id)
        if not _postpone(intent):
            return None  # another process has settled it
        letter.refresh_from_db(fields=["status", "sent_generation", "requeued_as"])
        heard_of = _heard_of(letter, run)
        if letter.status == LetterStatus.REQUEUED and not heard_of:
            return _sending(intent, letter, run, order)
        intents.settle([intent.key], OutboxStatus.DONE)
        call = rows.call_of(run)
        if order.changes.edits and (edited := _edited(intent.payload)):
            call = order.changes.described(call, edited)
        details = intents.details_of(order, intent.payload["generation"], call)
        audit(letter, AuditAction.REQUEUE, order.decided, outcome="sent" if heard_of else UNKNOWN, **details)
    if heard_of:
        supersede(older(letter, intent.payload["task_id"], intent.payload["generation"]))
    return None


def _postpone(intent: OutboxEntry) -> int:
    """How many are left to be finished: one or none."""
    intent.tries += 1
    wait = timedelta(seconds=min(60 * intent.tries, LONGEST_WAIT_SECONDS))
    waiting = OutboxEntry.objects.filter(pk=intent.pk, status=OutboxStatus.PENDING, available_at=intent.available_at)
    return int(waiting.update(tries=intent.tries, available_at=timezone.now() + wait))


def _heard_of(letter: DeadLetter, run: TaskRun) -> bool:
    if letter.requeued_as:
        return TaskRun.objects.filter(task_id=letter.requeued_as).exists()
    return (run.publication, run.generation) >= (letter.publication, letter.sent_generation or 0)


def _sending(intent: OutboxEntry, letter: DeadLetter, run: TaskRun, order: Order) -> Sending | None:
    """None, and the letter open again, where its message can't be made any more."""
    moved = NewId(*intent.payload["moved"]) if intent.payload.get("moved") else None
    generation = intent.payload["generation"]
    follows = canvas.following(letter.envelope)
    try:
        envelope = message_for(letter, follows, generation, order.changes, moved)
        if edited := _edited(intent.payload):  # with the nonce of this send
            envelope = replace(edited, headers={**edited.headers, own.NONCE: envelope.headers[own.NONCE]})
        call = order.changes.described(rows.call_of(run), envelope)
    except TaskOpsError as error:
        intents.settle([intent.key], OutboxStatus.FAILED, str(error))
        DeadLetter.objects.filter(pk=letter.pk).update(status=LetterStatus.OPEN, requeued_as="")
        audit(letter, AuditAction.REQUEUE, order.decided, outcome=f"{UNKNOWN}; {error}")
        return None
    return Sending(
        letter=letter,
        follows=follows,
        intent=intent.key,
        envelope=envelope,
        call=replace(call, requeued_from=letter.task_id if moved else ""),
        task_id=intent.payload["task_id"],
        generation=generation,
        moved=moved,
        earlier=letter.sent_generation,  # it may have arrived: never used again
    )
