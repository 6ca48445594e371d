"""Until when the chord that waits for a parked letter can still be completed: the result backend forgets it some time.

Redis and its like renew the keys of a chord at each part that returns; what they keep is enough. Other backends join
the results themselves, so that the oldest of them counts.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from celery import current_app
from django.db.models import Max, Min
from django.utils import timezone
from kombu.utils import json

from ...capture.envelope import Envelope
from ...exceptions import EnvelopeError
from ...models import DeadLetter, TaskRun
from ...states import FINISHED, QuietReason

_RENEWING = ("redis", "rediss", "sentinel", "valkey", "valkeys")
SOON = 0.25  # of the time that keys live


@dataclass(frozen=True, slots=True, kw_only=True)
class ChordKeys:
    """`until` is None where they never expire, or, if `known` is False, where nobody can tell."""

    until: datetime | None
    lifetime: timedelta | None
    known: bool = True

    @property
    def is_over(self) -> bool:
        return self.until is not None and self.until <= timezone.now()

    @property
    def is_soon_over(self) -> bool:
        if self.until is None or self.lifetime is None:
            return False
        return not self.is_over and self.until - timezone.now() < SOON * self.lifetime


def of_letter(letter: DeadLetter) -> ChordKeys | None:
    """None where no chord waits for it. Reads its envelope, and asks one query. By the settings of this process."""
    group_id = _group_of(letter)
    if group_id is None:
        return None
    lifetime = _lifetime()
    if lifetime is None:
        return ChordKeys(until=None, lifetime=None)
    since = _since(group_id)
    return ChordKeys(until=since and since + lifetime, lifetime=lifetime, known=since is not None)


def _group_of(letter: DeadLetter) -> str | None:
    """The group whose chord waits for the letter: for itself, or for the end of its chain."""
    try:
        envelope = Envelope.from_bytes(letter.envelope or b"")
        if envelope.content_type != "application/json":
            return None  # nothing is unpickled here
        _args, _kwargs, embed = json.loads(envelope.body)
        if embed.get("chord"):
            return str(envelope.headers.get("group") or "")
        ends = [step["options"] for step in embed.get("chain") or () if step["options"].get("chord")]
        return str(ends[0].get("group_id") or "") if ends else None
    except (EnvelopeError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _lifetime() -> timedelta | None:
    for name in ("result_chord_expires", "result_expires") if _renews() else ("result_expires",):
        expires: Any = current_app.conf.get(name)  # the first since Celery 5.7
        if expires is not None:
            return (expires if isinstance(expires, timedelta) else timedelta(seconds=expires)) or None
    return None


def _renews() -> bool:
    return str(current_app.conf.result_backend or "").partition(":")[0].partition("+")[0] in _RENEWING


def _since(group_id: str) -> datetime | None:
    """When the part returned that counts, or, where none has, when the chord was published. Of a part that is parked
    Celery has heard nothing."""
    members = TaskRun.objects.filter(group_id=group_id) if group_id else TaskRun.objects.none()
    enqueued = members.aggregate(at=Min("enqueued_at"))["at"]
    heard = members.filter(state__in=FINISHED).exclude(reason=QuietReason.UPSTREAM_FAILED)
    returned = heard.exclude(dead_letters__parked=True).aggregate(first=Min("finished_at"), last=Max("finished_at"))
    since: datetime | None = (returned["last"] if _renews() else returned["first"]) or enqueued
    return since
