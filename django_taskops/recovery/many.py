"""Decides on many letters, whatever becomes of each: for the admin, and for runs that a worker takes over."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ..exceptions import AlreadyTaken, NotRequeueable
from ..models import AuditAction, DeadLetter
from ..states import LetterStatus
from .broker import Unreachable
from .decide import Decision, discard, restore
from .intents import Order
from .requeue import BATCH, NOT_TRIED, not_tried, requeue_each

Outcome: TypeAlias = Decision | Exception
"""What has become of a letter: the decision, or why there is none. An error that is no TaskOpsError was not expected;
of a requeue nobody knows then whether the message was sent."""

logger = logging.getLogger("django_taskops")


def decide_each(action: AuditAction, letters: Sequence[int], order: Order) -> Iterator[tuple[int, Outcome]]:
    """Requeues, discards or restores the letters with these primary keys; each with what has become of it.

    Of `order`, discard and restore heed who and why. Nothing that happens to one letter stops the others, unless it is
    that the broker can't be reached: each of them would wait for the same.
    """
    decide = _DECIDERS[action]
    cut_off = False
    for start in range(0, len(letters), BATCH):
        batch = letters[start : start + BATCH]
        if cut_off:
            yield from ((pk, not_tried()) for pk in batch)
            continue
        for pk, outcome in decide(batch, order):
            cut_off = cut_off or is_cut_off(outcome)
            yield pk, outcome


def is_cut_off(outcome: Outcome) -> bool:
    """True where the broker could not be reached: the letter is as it was, and others would fare no better."""
    if not isinstance(outcome, NotRequeueable):
        return False
    return outcome.code == NOT_TRIED or isinstance(outcome.__cause__, Unreachable)


def _requeued(letters: Sequence[int], order: Order) -> Iterator[tuple[int, Outcome]]:
    """One by one where the batch fails as a whole. Those it has taken by then are not open any more: of them, it is
    not known."""
    told: set[int] = set()
    try:
        for pk, outcome in requeue_each(letters, order):
            told.add(pk)
            yield pk, outcome
    except Exception as error:
        logger.exception("django-taskops: requeueing %s dead letters failed", len(letters))
        left = [pk for pk in letters if pk not in told]
        if len(letters) == 1:
            yield from ((pk, error) for pk in left)
        else:
            yield from _one_by_one(left, order, error)


def _one_by_one(letters: Sequence[int], order: Order, before: Exception) -> Iterator[tuple[int, Outcome]]:
    cut_off = False
    for pk in letters:
        ((_pk, outcome),) = [(pk, not_tried())] if cut_off else _requeued([pk], order)
        cut_off = cut_off or is_cut_off(outcome)
        taken = isinstance(outcome, AlreadyTaken) and outcome.status == LetterStatus.REQUEUED
        yield pk, before if taken else outcome


def _each(decide: Callable[..., Decision]) -> Callable[[Sequence[int], Order], Iterator[tuple[int, Outcome]]]:
    def decided(letters: Sequence[int], order: Order) -> Iterator[tuple[int, Outcome]]:
        found = DeadLetter.objects.filter(pk__in=letters).defer("envelope").in_bulk()
        for pk in letters:
            yield pk, _decision(decide, found.get(pk), order)

    return decided


def _decision(decide: Callable[..., Decision], letter: DeadLetter | None, order: Order) -> Outcome:
    if letter is None:
        return AlreadyTaken("", LetterStatus.OPEN.value, "gone")
    try:
        return decide(letter, by=order.decided.by, reason=order.decided.why)
    except AlreadyTaken as error:
        return error
    except Exception as error:
        logger.exception("django-taskops: %s of dead letter %s failed", decide.__name__, letter.pk)
        return error


_DECIDERS: Mapping[Any, Callable[[Sequence[int], Order], Iterator[tuple[int, Outcome]]]] = {
    AuditAction.REQUEUE: _requeued,
    AuditAction.DISCARD: _each(discard),
    AuditAction.RESTORE: _each(restore),
}
