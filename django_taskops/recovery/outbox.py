"""Carries out what the outbox holds: public signals, alerts, notices of dead-letter queues, re-runs. At least once.

An entry is claimed for a minute before it is carried out, so that any number of processes work side by side; one that
fails is tried again, later each time, and given up after some two hours with its error kept.
"""

import logging
import socket
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from os import getpid
from typing import Any

from django.db.models import F, Q
from django.dispatch import Signal
from django.utils import timezone

from ..capture.call import app_of
from ..capture.frames import message_of
from ..capture.text import storable
from ..models import DeadLetter, OutboxEntry, OutboxKind, OutboxStatus
from ..signals import dead_letter_resolved, recorder_blind, task_dead_lettered
from . import alerts
from .broker import publish
from .joins import send_body
from .notice import notice_of
from .parking import let_through
from .rerun import rerun

CLAIM_SECONDS = 60
LONGEST_CALL_SECONDS = 5.0
MAX_TRIES = 12

logger = logging.getLogger("django_taskops")


def carry_out(limit: int = 100) -> int:
    """Carries out what is due, oldest first; returns how many succeeded. Reads `limit` entries at a time, and begins
    with none more after some five seconds: what is left is for the next call."""
    until = time.monotonic() + LONGEST_CALL_SECONDS
    succeeded = 0
    while entries := _due(limit):
        for entry in entries:
            if time.monotonic() >= until:
                return succeeded
            succeeded += _claim(entry) and _carry_out(entry)
        if len(entries) < limit:
            break
    return succeeded


def _due(limit: int) -> list[OutboxEntry]:
    now = timezone.now()
    due = OutboxEntry.objects.filter(status=OutboxStatus.PENDING, kind__in=_HANDLERS, available_at__lte=now)
    free = due.filter(Q(claimed_until=None) | Q(claimed_until__lt=now)).order_by("available_at", "pk")
    return list(free[:limit])


def _claim(entry: OutboxEntry) -> bool:
    now = timezone.now()
    unclaimed = Q(claimed_until=None) | Q(claimed_until__lt=now)
    taken = OutboxEntry.objects.filter(unclaimed, pk=entry.pk, status=OutboxStatus.PENDING).update(
        claimed_by=f"{socket.gethostname()}:{getpid()}"[:64],
        claimed_until=now + timedelta(seconds=CLAIM_SECONDS),
        tries=F("tries") + 1,
    )
    entry.tries += 1
    return bool(taken)


def _carry_out(entry: OutboxEntry) -> bool:
    try:
        _HANDLERS[OutboxKind(entry.kind)](entry)
    except (Exception, SystemExit) as error:  # a broker, or a receiver of the project
        logger.warning("django-taskops: outbox entry %s failed, try %s", entry.key, entry.tries, exc_info=True)
        _postpone(entry, error)
        return False
    OutboxEntry.objects.filter(pk=entry.pk).update(status=OutboxStatus.DONE, error="", claimed_until=None)
    return True


def _postpone(entry: OutboxEntry, error: BaseException) -> None:
    wait = timedelta(seconds=2 * 2**entry.tries)
    status = OutboxStatus.PENDING if entry.tries < MAX_TRIES else OutboxStatus.FAILED
    OutboxEntry.objects.filter(pk=entry.pk).update(
        status=status,
        error=_told(error),
        payload=entry.payload,
        claimed_until=None,
        available_at=timezone.now() + wait,
    )


def _told(error: BaseException) -> str:
    return storable(f"{type(error).__name__}: {message_of(error)}", 2000)


def _tell_dead_lettered(entry: OutboxEntry) -> None:
    letter = _letter(entry.payload)
    if not entry.payload.get("gathered"):
        alerts.gather(letter)
        entry.payload["gathered"] = True  # kept where a receiver fails: the next try is no other failure of the task
    _send(task_dead_lettered, DeadLetter, dead_letter=letter)


def _tell_resolved(entry: OutboxEntry) -> None:
    _send(dead_letter_resolved, DeadLetter, dead_letter=_letter(entry.payload))


def _tell_blind(entry: OutboxEntry) -> None:
    alerts.gather_blindness(entry)
    since = datetime.fromisoformat(entry.payload["since"])
    _send(recorder_blind, None, reason=entry.payload["reason"], detail=entry.payload["detail"], since=since)


def _send(signal: Signal, sender: type[DeadLetter] | None, **told: Any) -> None:
    """To every receiver, then raises the first error: one that fails keeps it from none of the others."""
    for _receiver, answer in signal.send_robust(sender=sender, **told):
        if isinstance(answer, Exception):
            raise answer


def _notify_queue(entry: OutboxEntry) -> None:
    notice = notice_of(_letter(entry.payload), entry.payload["queue"])
    publish(app_of(notice), notice, declare_unknown=True)


def _rerun(entry: OutboxEntry) -> None:
    rerun(entry.payload)


def _letter(payload: Mapping[str, Any]) -> DeadLetter:
    letter: DeadLetter = DeadLetter.objects.select_related("run").get(
        run=payload["run"], publication=payload["publication"], generation=payload["generation"]
    )
    return letter


_HANDLERS: Mapping[OutboxKind, Callable[[OutboxEntry], None]] = {
    OutboxKind.DEAD_LETTERED: _tell_dead_lettered,
    OutboxKind.RESOLVED: _tell_resolved,
    OutboxKind.BLIND: _tell_blind,
    OutboxKind.DEAD_LETTER_QUEUE: _notify_queue,
    OutboxKind.ALERT: alerts.send,
    OutboxKind.RERUN: _rerun,
    OutboxKind.LET_THROUGH: let_through,
    OutboxKind.CHORD: send_body,
}
