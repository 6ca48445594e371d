"""Puts on the broker what has been committed, and takes back what could not be put there."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from celery import Celery

from .. import journal
from ..capture import headers as own
from ..capture.call import app_of
from ..exceptions import NotRequeueable, TaskOpsError
from ..models import AuditAction, DeadLetter
from . import canvas, intents, pollers
from .broker import Publisher, Unconfirmed
from .decide import Decision
from .intents import Order, Sending

NOT_SENT = "not_sent"
MAX_SUPERSEDED = 20  # generations; those before have been superseded by the requeues before

logger = logging.getLogger("django_taskops")

Outcome: TypeAlias = Decision | TaskOpsError
"""What has become of a letter: the decision, or why there is none."""


def send(
    sendings: Sequence[Sending], order: Order, publisher: Publisher
) -> tuple[list[Sending], dict[int, NotRequeueable]]:
    """Those that the broker has, for `confirmed`, and why it does not have which letters, by primary key; these are
    open again."""
    errors = put_on_broker(sendings, publisher)
    for sending in sendings:
        if (error := errors.get(sending.letter.pk)) and error.code == NOT_SENT:
            intents.reopen(sending, order, f"not sent: {error.__cause__!r}")
    return [sending for sending in sendings if sending.letter.pk not in errors], errors


def confirmed(sendings: Sequence[Sending], order: Order) -> dict[int, Decision]:
    """What was decided on each letter, by primary key, once it is written down that the broker has its message."""
    outcome = intents.confirm(sendings, order) if sendings else ""
    return {sending.letter.pk: _decision(sending, outcome) for sending in sendings}


def put_on_broker(sendings: Sequence[Sending], publisher: Publisher) -> dict[int, NotRequeueable]:
    """Why which letters were not sent, or may not have been. Writes nothing into our tables."""
    waiting = _waiting(sendings)
    held = _hold_pollers(sendings, waiting)
    errors = _publish(sendings, publisher)
    failed = {pk for pk, error in errors.items() if error.code == NOT_SENT}
    sent = [sending for sending in sendings if sending.letter.pk not in failed]
    supersede(claim for each in sent for claim in older(each.letter, each.task_id, each.generation))
    _give_back_pollers({task_id for pk in failed for task_id in waiting[pk]}, held)
    return errors


def _publish(sendings: Sequence[Sending], publisher: Publisher) -> dict[int, NotRequeueable]:
    errors: dict[int, NotRequeueable] = {}
    for sending in sendings:
        try:
            publisher.publish(app_of(sending.envelope), sending.envelope)
        except Unconfirmed as error:
            errors[sending.letter.pk] = _unconfirmed(error)
        except Exception as error:  # noqa: BLE001 whatever the broker's client raises: the letter must not hang
            errors[sending.letter.pk] = _not_sent(error)
    return errors


def _unconfirmed(error: Exception) -> NotRequeueable:
    refusal = NotRequeueable(
        "not_confirmed",
        "the broker did not answer, it may have the message: unless the task is heard of within a minute, it is sent "
        f"once more, and starts once: {error}",
    )
    refusal.__cause__ = error
    return refusal


def _not_sent(error: Exception) -> NotRequeueable:
    refusal = NotRequeueable(NOT_SENT, f"the broker did not take the message, the letter is open again: {error!r}")
    refusal.__cause__ = error
    return refusal


def supersede(claims: Iterable[tuple[str, str]]) -> None:
    """From now on workers refuse these messages, should the broker deliver them again. Never raises: what runs twice
    then is the task's own business, as it is without us."""
    held = dict(claims)
    try:
        journal.current().claim_all(held)
    except Exception:
        logger.warning("django-taskops: %s older messages may run again", len(held), exc_info=True)


def older(letter: DeadLetter, task_id: str, generation: int) -> Iterator[tuple[str, str]]:
    """The messages before the one that was sent for `letter`, for `supersede`."""
    moved = task_id != letter.task_id
    newer = max(letter.generation, letter.sent_generation or 0) + 1 if moved else generation
    for before in range(max(letter.generation, newer - MAX_SUPERSEDED), newer):
        if key := own.superseded(letter.task_id, letter.publication, before):
            yield key, f"it was put back as {task_id}, generation {generation}"


def _waiting(sendings: Sequence[Sending]) -> Mapping[int, Sequence[str]]:
    """The ids that may be waited for, by letter: its task's own, and those of what follows it."""
    behind = canvas.downstream((sending.letter, sending.follows) for sending in sendings)
    return {sending.letter.pk: [*_own_id(sending), *behind[sending.letter.pk]] for sending in sendings}


def _own_id(sending: Sending) -> Sequence[str]:
    headers = sending.envelope.headers
    return () if sending.moved or headers.get("ignore_result") else (headers["id"],)


def _hold_pollers(
    sendings: Sequence[Sending], waiting: Mapping[int, Sequence[str]]
) -> Mapping[Celery, Mapping[str, Any]]:
    """Before anything is sent: a re-run may be quicker than we are."""
    ids: dict[Celery, dict[str, None]] = defaultdict(dict)
    for sending in sendings:
        ids[app_of(sending.envelope)].update(dict.fromkeys(waiting[sending.letter.pk]))
    return {app: pollers.hold(app, list(task_ids)) for app, task_ids in ids.items()}


def _give_back_pollers(unsent: Collection[str], held: Mapping[Celery, Mapping[str, Any]]) -> None:
    for app, metas in held.items():
        if back := {task_id: meta for task_id, meta in metas.items() if task_id in unsent}:
            pollers.give_back(app, back)


def _decision(sending: Sending, outcome: str) -> Decision:
    return Decision(
        action=AuditAction.REQUEUE,
        dead_letter_id=sending.letter.pk,
        task_id=sending.task_id,
        generation=sending.generation,
        outcome=outcome,
    )
