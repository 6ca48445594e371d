"""Whether a message may run: one that has been sent anew since, or sent twice, must not."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from celery.exceptions import Ignore

from .. import journal
from . import headers as own
from .shield import due, let_limit_through
from .text import storable_id

T = TypeVar("T")

logger = logging.getLogger("django_taskops")


class Superseded(Ignore):
    """A message must not run: its task has been put back since, another send of the same requeue has started, or it
    keeps killing workers."""


def objection(request: Any) -> str:
    """Why this message must not run, in words; "" where it may. Asks nobody where it was sent once and the broker does
    not say that it comes again."""
    if nonce := getattr(request, own.NONCE, None):
        return _overtaken_by(request, str(nonce))
    delivered = request.delivery_info
    redelivered = isinstance(delivered, dict) and delivered.get("redelivered")
    return _superseded_by(request) if redelivered else ""


def _superseded_by(request: Any) -> str:
    """What has been sent since in its stead, in words, "" for nothing."""
    key = _superseded_key(request)
    return _asked(lambda: journal.current().holder(key), "") if key else ""


def _overtaken_by(request: Any, nonce: str) -> str:
    """The same of a message of a requeue, of which another send may have started before."""
    who = own.identity(vars(request))
    key = own.sent(storable_id(request.id), who["publication"], who["generation"], who["retries"])
    newer = _superseded_key(request)
    by, first = _asked(lambda: journal.current().claim_beside(newer, key, nonce), ("", ""))
    if by or first in ("", nonce):
        return by
    return f"the same requeue was sent twice, and message {first} has started"


def _superseded_key(request: Any) -> str:
    who = own.identity(vars(request))
    return own.superseded(storable_id(request.id), who["publication"], who["generation"])


def _asked(question: Callable[[], T], silence: T) -> T:
    """The journal's answer, `silence` where it has none to give: a task that may run runs."""
    try:
        return question()
    except Exception as error:
        let_limit_through(error)
        if due("claims"):
            logger.warning("django-taskops: can't ask whether a message may run, so it runs", exc_info=True)
        return silence
