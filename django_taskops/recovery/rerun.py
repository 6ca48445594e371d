"""Puts back by itself what a lost worker has left and its task declares idempotent: an order of the reaper's."""

from collections.abc import Mapping
from typing import Any

from ..exceptions import AlreadyTaken, NotRequeueable
from ..models import DeadLetter
from ..states import LetterStatus
from .requeue import requeue

WHY = "declared idempotent; "


def rerun(payload: Mapping[str, Any]) -> None:
    """Does nothing where somebody has decided on the letter meanwhile, or where it can't be sent again: then it waits
    for a person. Raises what the broker raises: the order is tried again."""
    letter = DeadLetter.objects.filter(
        run=payload["run"],
        publication=payload["publication"],
        generation=payload["generation"],
        status=LetterStatus.OPEN,
    ).first()
    if letter is None:
        return
    try:
        requeue(letter, reason=f"{WHY}{payload['why']}")
    except AlreadyTaken:
        return
    except NotRequeueable as error:
        if error.code in ("not_sent", "not_confirmed"):
            raise
