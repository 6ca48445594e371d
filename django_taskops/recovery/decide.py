"""One decision on one dead letter: compare-and-set on its status, with an audit entry in the same transaction."""

from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.utils import timezone

from ..capture.text import storable
from ..conf import conf
from ..exceptions import AlreadyTaken
from ..models import AuditAction, AuditEntry, DeadLetter
from ..states import LetterStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was done. `task_id` and `generation` are those under which the task runs, where it was sent again."""

    action: AuditAction
    dead_letter_id: int
    task_id: str
    generation: int
    outcome: str


def discard(dead_letter: DeadLetter, *, by: Any = None, reason: str = "") -> Decision:
    """Gives up on an open letter, reversibly. `by` is a user, a name, or None for the app itself.

    Raises AlreadyTaken where the letter is not open any more.
    """
    return _decide(dead_letter, AuditAction.DISCARD, LetterStatus.OPEN, LetterStatus.DISCARDED, by, reason)


def restore(dead_letter: DeadLetter, *, by: Any = None, reason: str = "") -> Decision:
    """Opens a discarded letter again. Raises AlreadyTaken where it is not discarded."""
    return _decide(dead_letter, AuditAction.RESTORE, LetterStatus.DISCARDED, LetterStatus.OPEN, by, reason)


def _decide(
    letter: DeadLetter, action: AuditAction, expected: LetterStatus, status: LetterStatus, by: Any, why: str
) -> Decision:
    with transaction.atomic(using=conf.DATABASE):
        take(letter, expected, status)
        audit(letter, action, by=by, why=why, outcome=status.value)
    return Decision(
        action=action,
        dead_letter_id=letter.pk,
        task_id=letter.task_id,
        generation=letter.generation,
        outcome=status.value,
    )


def take(letter: DeadLetter, expected: LetterStatus, status: LetterStatus, **facts: Any) -> None:
    """Moves the stored letter from `expected` to `status`, and `letter` with it. Raises AlreadyTaken."""
    facts |= {"status": status, "decided_at": timezone.now()}
    if not DeadLetter.objects.filter(pk=letter.pk, status=expected).update(**facts):
        found = DeadLetter.objects.filter(pk=letter.pk).values_list("status", flat=True).first()
        raise AlreadyTaken(letter.task_id, expected.value, found or "gone")
    for name, value in facts.items():
        setattr(letter, name, value)


def audit(letter: DeadLetter, action: AuditAction, *, by: Any, why: str, outcome: str, **details: Any) -> AuditEntry:
    """Writes down a decision on `letter`."""
    entry: AuditEntry = AuditEntry.objects.create(
        action=action,
        user_id=storable(getattr(by, "pk", "")),
        user_name=storable(by.get_username() if hasattr(by, "get_username") else by),
        why=storable(why, 2000),
        object_type="dead_letter",
        object_id=str(letter.pk),
        task_id=letter.task_id,
        outcome=storable(outcome),
        details=details,
    )
    return entry
