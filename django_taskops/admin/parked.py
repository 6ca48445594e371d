"""What a person has to know of a letter that is parked, or was: in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _

from ..models import DeadLetter, OutboxStatus
from ..recovery import parking
from ..recovery.parking import chord_keys
from . import display


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    text: str
    warns: bool = False


def remarks(letter: DeadLetter) -> list[Remark]:
    """For the page of the letter: at most two queries."""
    if parking.is_waiting(letter):
        withheld = _(
            "Parked: Celery's result backend has not been told of this failure. Until the letter is requeued or "
            "discarded, its chord, the rest of its chain, link_error and callers of get() see nothing of it and wait. "
            "Logs, signals and events have told of it, and so have Sentry and Flower, where they listen."
        )
        return [Remark(text=withheld), *_of_chord(letter)]
    return _of_order(letter) if letter.let_through_at else []


def before_requeue(letter: DeadLetter) -> list[str]:
    if not letter.parked:
        return []
    waiting = _("It is parked: what waits for it goes on when it succeeds.")
    return [waiting, *(remark.text for remark in _of_chord(letter))]


def before_discard(letter: DeadLetter) -> list[str]:
    if not letter.parked:
        return []
    told = [
        _(
            "It is parked: its failure is let through to Celery now. Its result becomes FAILURE, link_error is called, "
            "its chord fails, and the later steps of its chain never run. Restoring the letter does not undo that."
        )
    ]
    if not letter.envelope:
        told.append(_("Its message was not kept: its chord, its chain and link_error can't be told, only its result."))
    return told


def before_restore(letter: DeadLetter) -> list[str]:
    return [remark.text for remark in _of_order(letter)] if letter.let_through_at else []


def _of_chord(letter: DeadLetter) -> Sequence[Remark]:
    keys = chord_keys.of_letter(letter)
    if keys is None:
        return ()
    if keys.until is None:
        never = _("A chord waits for it, and its keys in the result backend don't expire.")
        unknown = _("A chord waits for it; until when the result backend keeps its keys is not known.")
        return [Remark(text=never if keys.known else unknown)]
    until = {"until": display.exactly(keys.until)}
    if keys.is_over:
        text = _(
            "A chord waited for it, and as far as is known the result backend kept its keys until %(until)s: after a "
            "requeue its body may never run, and nothing would say so."
        )
    elif keys.is_soon_over:
        text = _("A chord waits for it until %(until)s, when its keys in the result backend expire: requeue it before.")
    else:
        text = _("A chord waits for it. As far as is known, the result backend keeps its keys until %(until)s.")
    return [Remark(text=text % until, warns=keys.is_over or keys.is_soon_over)]


def _of_order(letter: DeadLetter) -> list[Remark]:
    order = parking.orders(letter).order_by("pk").last()
    if order is not None and order.payload.get("needless"):
        return [Remark(text=_("It was parked. Celery was not told of its failure, since the task has run again."))]
    if order is None or order.status == OutboxStatus.DONE:  # a done one is deleted some day
        at = {"at": display.exactly(letter.let_through_at)} if letter.let_through_at else {}
        return [Remark(text=_("It was parked. Its failure was let through to Celery, as decided at %(at)s.") % at)]
    if order.status == OutboxStatus.PENDING and not order.error:
        return [Remark(text=_("It was parked. Its failure is about to be let through to Celery by a worker."))]
    failed = _("It was parked. Celery could not be told of its failure: %(error)s") % {"error": order.error}
    return [Remark(text=failed, warns=True)]
