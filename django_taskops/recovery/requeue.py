"""Puts dead letters back: decided once, written down before they are sent, sent with everything they had.

One code path for one letter and for many: batches of a hundred, each committed, sent over one connection, confirmed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.db import DatabaseError, InterfaceError

from ..exceptions import NotRequeueable, TaskOpsError
from ..models import DeadLetter
from ..states import LetterStatus
from . import intents
from .broker import Publisher
from .decide import Decided, Decision, person
from .intents import Order, Sending
from .message import Changes
from .sending import Outcome, confirmed, send

BATCH = 100
CONFIRMED_AT_ONCE = 500  # to write them down costs little more for many than for a few
NOT_TRIED = "not_tried"


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
    keeps them; `countdown` in seconds. `force` overrides every refusal that is a matter of judgement: the codes
    "stale", "healed", "unregistered", "bad_arguments", "running" and "redelivery_pending", and those of a chord that
    can't be joined. Expired tasks, and those whose id has been published anew since, get a new id.

    It is sent at least once, and starts at most once, unless forced; see docs/recovery.md. Raises NotRequeueable (its
    `code` says why) and AlreadyTaken; then nothing has been sent, and a letter that was open is open, but for the code
    "not_confirmed", where nobody knows. Must not be called inside a transaction: what is sent can't be rolled back.
    """
    changes = Changes.checked(attempts=attempts, args=args, kwargs=kwargs, queue=queue, countdown=countdown)
    order = Order(changes=changes, decided=Decided(by=person(by), why=reason), force=force)
    ((_pk, outcome),) = requeue_each([dead_letter.pk], order)
    if isinstance(outcome, TaskOpsError):
        raise outcome
    _refresh(dead_letter)
    return outcome


def _refresh(letter: DeadLetter) -> None:
    """Never raises: the message is on its way, whatever the database does now."""
    try:
        letter.refresh_from_db(fields=["status", "decided_at", "requeued_as", "sent_generation"])
    except (DatabaseError, InterfaceError):
        letter.status = LetterStatus.REQUEUED


def requeue_each(letters: Sequence[int], order: Order) -> Iterator[tuple[int, Outcome]]:
    """The same for the letters with these primary keys, in batches; each with what has become of it, as soon as that is
    certain. One that fails never stops the others; they are not tried any more once the broker can't be reached."""
    sent: list[Sending] = []
    try:
        with Publisher() as publisher:
            for start in range(0, len(letters), BATCH):
                batch = letters[start : start + BATCH]
                if publisher.is_cut_off:
                    yield from ((pk, not_tried()) for pk in batch)
                    continue
                sendings, refused = intents.commit(batch, order)
                arrived, failed = send(sendings, order, publisher)
                sent += arrived
                yield from refused.items()
                yield from failed.items()
                if len(sent) >= CONFIRMED_AT_ONCE:
                    sent, told = [], confirmed(sent, order)
                    yield from told.items()
    except BaseException:
        confirmed(sent, order)
        raise
    yield from confirmed(sent, order).items()


def not_tried() -> NotRequeueable:
    return NotRequeueable(NOT_TRIED, "not tried, because the broker could not be reached for those before")
