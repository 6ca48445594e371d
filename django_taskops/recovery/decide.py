"""One decision on one dead letter: compare-and-set on its status, with an audit entry in the same transaction."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db import transaction
from django.utils import timezone

from ..capture.text import storable
from ..conf import conf
from ..exceptions import AlreadyTaken
from ..models import AuditAction, AuditEntry, DeadLetter, TaskRun
from ..projection.letters import current_status
from ..states import LetterStatus
from . import parking


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was done. `task_id` and `generation` are those under which the task runs, where it was sent again."""

    action: AuditAction
    dead_letter_id: int
    task_id: str
    generation: int
    outcome: str


class Person(NamedTuple):
    """Who decides, as text; both "" for the app itself."""

    user_id: str
    user_name: str


class Decided(NamedTuple):
    """Who and why, as an intent keeps it."""

    by: Person
    why: str

    def as_payload(self) -> dict[str, str]:
        return {"user_id": self.by.user_id, "user_name": self.by.user_name, "why": storable(self.why, 2000)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> "Decided":
        return cls(Person(payload["user_id"], payload["user_name"]), payload["why"])


def person(by: Any) -> Person:
    """`by` is a user, a name, None for the app itself, or a Person already."""
    if isinstance(by, Person):
        return by
    name = by.get_username() if hasattr(by, "get_username") else by
    return Person(storable(getattr(by, "pk", "")), storable(name))


def discard(dead_letter: DeadLetter, *, by: Any = None, reason: str = "") -> Decision:
    """Gives up on an open letter, reversibly. `by` is a user, a name, or None for the app itself. A failure that is
    parked is let through to Celery, by an order in the outbox; that can't be taken back once it has begun.

    Raises AlreadyTaken where the letter is not open any more.
    """
    with _deciding(dead_letter, LetterStatus.OPEN):
        take(dead_letter, LetterStatus.OPEN, LetterStatus.DISCARDED, **parking.give_up(dead_letter))
        return _noted(dead_letter, AuditAction.DISCARD, Decided(person(by), reason))


def restore(dead_letter: DeadLetter, *, by: Any = None, reason: str = "") -> Decision:
    """Takes a discard back: the letter is open again, or what it has come to meanwhile; the outcome says which. One
    that was parked still is where Celery has not been told yet: its `parked` says so.

    Raises AlreadyTaken where it is not discarded.
    """
    with _deciding(dead_letter, LetterStatus.DISCARDED) as run:
        take(dead_letter, LetterStatus.DISCARDED, LetterStatus.OPEN, **parking.take_back(dead_letter))
        dead_letter.status = current_status(dead_letter, run)
        DeadLetter.objects.filter(pk=dead_letter.pk).update(status=dead_letter.status)
        return _noted(dead_letter, AuditAction.RESTORE, Decided(person(by), reason))


@contextmanager
def _deciding(letter: DeadLetter, expected: LetterStatus) -> Iterator[TaskRun]:
    """A transaction that holds the run's lock: the writer decides on letters under it too. Raises AlreadyTaken where
    the run is gone, and its letters with it."""
    with transaction.atomic(using=conf.DATABASE):
        run: TaskRun | None = TaskRun.objects.select_for_update().filter(pk=letter.run_id).first()
        if run is None:
            raise AlreadyTaken(letter.task_id, expected.value, "gone")
        yield run


def _noted(letter: DeadLetter, action: AuditAction, decided: Decided) -> Decision:
    outcome = str(letter.status)
    audit(letter, action, decided, outcome=outcome)
    return Decision(
        action=action,
        dead_letter_id=letter.pk,
        task_id=letter.task_id,
        generation=letter.generation,
        outcome=outcome,
    )


def take(letter: DeadLetter, expected: LetterStatus, status: LetterStatus, **facts: Any) -> None:
    """Moves the stored letter from `expected` to `status`, and `letter` with it. Raises AlreadyTaken."""
    facts |= {"status": status, "decided_at": timezone.now()}
    if not DeadLetter.objects.filter(pk=letter.pk, status=expected).update(**facts):
        found = DeadLetter.objects.filter(pk=letter.pk).values_list("status", flat=True).first()
        raise AlreadyTaken(letter.task_id, expected.value, found or "gone")
    for name, value in facts.items():
        setattr(letter, name, value)


def audit(letter: DeadLetter, action: AuditAction, decided: Decided, *, outcome: str, **details: Any) -> None:
    """Writes down a decision on `letter`."""
    AuditEntry.objects.bulk_create([audit_entry(letter, action, decided, outcome=outcome, details=details)])


def audit_entry(
    letter: DeadLetter, action: AuditAction, decided: Decided, *, outcome: str, details: Mapping[str, Any]
) -> AuditEntry:
    """Not stored yet."""
    return AuditEntry(
        action=action,
        **decided.by._asdict(),
        why=storable(decided.why, 2000),
        object_type="dead_letter",
        object_id=str(letter.pk),
        task_id=letter.task_id,
        outcome=storable(outcome),
        details=dict(details),
    )
