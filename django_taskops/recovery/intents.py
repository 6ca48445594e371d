"""What is about to be sent, committed before it is: for a batch of letters, one transaction before and one after.

Whoever finds a letter open under the lock of its run takes it, so that of any number of people and processes one sends.
The intent says all that is needed to finish the requeue, should its process die.
"""

import logging
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from ..capture import headers as own
from ..capture.envelope import Envelope
from ..capture.text import storable, storable_id
from ..conf import conf
from ..events import Call, Event, EventKind
from ..exceptions import AlreadyTaken, NotRequeueable, TaskOpsError
from ..models import AuditAction, AuditEntry, DeadLetter, OutboxEntry, OutboxKind, OutboxStatus, TaskRun
from ..projection import bulk, rows, writer
from ..states import LetterStatus
from . import canvas, preflight
from .decide import Decided, audit_entry
from .message import Changes, NewId, message_for

NOT_SHOWN = ("traceback", "exception_message", "result", "progress")  # of a run: may be large

logger = logging.getLogger("django_taskops")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody has decided for one letter, or for many. `force` overrides what is a matter of judgement."""

    changes: Changes
    decided: Decided
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """One message that goes out. `intent` is the key of its intent; `call` describes it as it goes; `earlier` is the
    generation of a send before this one that may have arrived. `follows` goes from step to step, so that none decodes
    the message again."""

    letter: DeadLetter
    follows: canvas.Following
    intent: str
    envelope: Envelope
    call: Call
    task_id: str
    generation: int
    moved: NewId | None
    earlier: int | None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))  # before its re-run can have started


def commit(letters: Sequence[int], order: Order) -> tuple[list[Sending], dict[int, TaskOpsError]]:
    """Takes the letters with these primary keys; returns what is to be sent, and why which letters are not.

    Raises NotRequeueable inside a transaction: what is sent can't be rolled back.
    """
    sendings: list[Sending] = []
    refused: dict[int, TaskOpsError] = {}
    surroundings = preflight.look_around(letters)
    with preflight.outermost_transaction():
        found = _locked(letters)
        for pk in letters:
            try:
                letter, run = found.get(pk) or _gone(pk)
                sendings.append(_sending(letter, run, order, surroundings))
            except TaskOpsError as error:
                refused[pk] = error
        _take([sending.letter for sending in sendings])
        bulk.insert(OutboxEntry, [_intent(sending, order) for sending in sendings], "key")
        canvas.take_over((sending.letter, sending.follows) for sending in sendings)
    return sendings, refused


def confirm(sendings: Sequence[Sending], order: Order) -> str:
    """Writes down that the broker has these messages; returns the outcome in words.

    Never raises: the messages are on their way. What can't be written now is settled by the housekeeper, and the
    workers tell the whole calls again.
    """
    try:
        with transaction.atomic(using=conf.DATABASE):
            writer.apply([_published(sending) for sending in sendings])
            behind = canvas.downstream((sending.letter, sending.follows) for sending in sendings)
            canvas.expect({task_id for task_ids in behind.values() for task_id in task_ids})
            unsettled = _under_way(sending.intent for sending in sendings)
            settle(unsettled, OutboxStatus.DONE)
            told = [_audit(sending, order, "sent") for sending in sendings if sending.intent in unsettled]
            AuditEntry.objects.bulk_create(told)
    except Exception:
        logger.warning("django-taskops: the requeue of %s tasks is not confirmed yet", len(sendings), exc_info=True)
        return "sent, not confirmed"
    return "sent"


def reopen(sending: Sending, order: Order, why: str) -> None:
    """Opens a letter again whose message the broker does not have, unless somebody has finished it meanwhile."""
    with transaction.atomic(using=conf.DATABASE):
        TaskRun.objects.select_for_update().get(pk=sending.letter.run_id)
        if settle([sending.intent], OutboxStatus.FAILED, why):
            facts = {"requeued_as": "", "sent_generation": sending.earlier, "decided_at": timezone.now()}
            taken = DeadLetter.objects.filter(pk=sending.letter.pk, status=LetterStatus.REQUEUED)
            taken.update(status=LetterStatus.OPEN, **facts)  # unless it is resolved: something has succeeded meanwhile
            AuditEntry.objects.bulk_create([_audit(sending, order, why)])


def _under_way(intents: Iterable[str]) -> set[str]:
    """Those that nobody has ended, locked: the housekeeper may have finished what took longer than a minute."""
    waiting = OutboxEntry.objects.select_for_update().filter(key__in=list(intents), status=OutboxStatus.PENDING)
    return set(waiting.order_by("pk").values_list("key", flat=True))


def settle(intents: Iterable[str], status: OutboxStatus, why: str = "") -> int:
    """Ends intents that are under way, and forgets edited arguments; returns how many were."""
    waiting = OutboxEntry.objects.filter(key__in=list(intents), status=OutboxStatus.PENDING)
    for edited in waiting.filter(payload__has_key="envelope"):
        del edited.payload["envelope"]
        OutboxEntry.objects.filter(pk=edited.pk).update(payload=edited.payload)
    ended: int = waiting.update(status=status, error=storable(why, 2000), tries=1, available_at=timezone.now())
    return ended


def _locked(letters: Sequence[int]) -> dict[int, tuple[DeadLetter, TaskRun]]:
    """The letters that are there with their runs, all under lock: runs first, as everywhere."""
    writer.lock_for_writing()
    wanted = DeadLetter.objects.filter(pk__in=letters)
    runs = TaskRun.objects.select_for_update().filter(pk__in=list(wanted.values_list("run_id", flat=True)))
    by_pk = {run.pk: run for run in runs.defer(*NOT_SHOWN).order_by("pk")}
    return {letter.pk: (letter, by_pk[letter.run_id]) for letter in wanted.select_for_update().order_by("pk")}


def _gone(pk: int) -> tuple[DeadLetter, TaskRun]:
    raise AlreadyTaken(f"of letter {pk}", LetterStatus.OPEN.value, "gone")


def _sending(letter: DeadLetter, run: TaskRun, order: Order, surroundings: preflight.Surroundings) -> Sending:
    if letter.status != LetterStatus.OPEN:
        raise AlreadyTaken(letter.task_id, LetterStatus.OPEN.value, letter.status)
    follows = canvas.following(letter.envelope)
    preflight.check(letter, run, follows, order.changes, surroundings, force=order.force)
    earlier = letter.sent_generation
    moved = NewId.fresh() if preflight.needs_new_id(letter, run) else None
    generation = 0 if moved else max(run.generation, earlier or 0) + 1
    try:
        envelope = message_for(letter, follows, generation, order.changes, moved)
        call = order.changes.described(rows.call_of(run), envelope)
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # one odd message never stops the rest
        raise NotRequeueable("envelope_unreadable", f"not re-runnable: its message can't be read: {error!r}") from error
    task_id = storable_id(envelope.headers["id"])
    letter.requeued_as, letter.sent_generation = (task_id, earlier) if moved else ("", generation)
    return Sending(
        letter=letter,
        follows=follows,
        intent=f"{OutboxKind.REQUEUE}:{letter.pk}:{envelope.headers[own.NONCE]}",
        envelope=envelope,
        call=replace(call, requeued_from=letter.task_id if moved else ""),
        task_id=task_id,
        generation=generation,
        moved=moved,
        earlier=earlier,
    )


def _take(letters: Sequence[DeadLetter]) -> None:
    """One statement for all of one generation, nearly always: Django's `bulk_update` costs more than all the rest."""
    alike: dict[tuple[str, int | None], list[int]] = defaultdict(list)
    for letter in letters:
        alike[letter.requeued_as, letter.sent_generation].append(letter.pk)
    now = timezone.now()
    for (requeued_as, generation), pks in alike.items():
        facts = {"requeued_as": requeued_as, "sent_generation": generation, "decided_at": now}
        DeadLetter.objects.filter(pk__in=pks).update(status=LetterStatus.REQUEUED, **facts)


def _intent(sending: Sending, order: Order) -> dict[str, Any]:
    """With the message itself where it has been edited; else the letter has it."""
    edited = {"envelope": b64encode(sending.envelope.to_bytes()).decode()} if order.changes.edits else {}
    payload = {
        "dead_letter": sending.letter.pk,
        "task_id": sending.task_id,
        "generation": sending.generation,
        "moved": sending.moved,
        "options": order.changes.as_payload(),
        "force": order.force,
        **order.decided.as_payload(),
        **edited,
    }
    instants = {"created_at": sending.at, "available_at": sending.at}
    return {"kind": OutboxKind.REQUEUE, "key": sending.intent, "payload": payload, **instants}


def _published(sending: Sending) -> Event:
    return Event(
        kind=EventKind.PUBLISHED,
        task_id=sending.task_id,
        task_name=sending.letter.task_name,
        at=sending.at,
        call=sending.call,
        **own.identity(sending.envelope.headers),
    )


def _audit(sending: Sending, order: Order, outcome: str) -> AuditEntry:
    details = details_of(order, sending.generation, sending.call)
    return audit_entry(sending.letter, AuditAction.REQUEUE, order.decided, outcome=outcome, details=details)


def details_of(order: Order, generation: int, call: Call) -> dict[str, Any]:
    """What was different, for the audit; edited arguments as people may see them, with secrets masked."""
    details: dict[str, Any] = {"generation": generation, **order.changes.as_payload()}
    if order.changes.edits:
        details |= {"args": call.args, "kwargs": call.kwargs}
    if order.force:
        details["force"] = True
    return details
