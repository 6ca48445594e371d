"""Secrets that a person has typed into an edited requeue, from the look at it until it is sent.

They are in no page, no URL and no session. The database has them as it has the message itself, encrypted where that is,
for an hour and until the next pass of retention.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import timedelta
from secrets import token_urlsafe
from typing import TYPE_CHECKING

from django.utils import timezone

from ...capture.sealing import seal, unseal
from ...events import JSON
from ...exceptions import EnvelopeError
from ...models import DeadLetter, OutboxEntry, OutboxKind, OutboxStatus
from ..decide import Person

if TYPE_CHECKING:
    from django.db.models import QuerySet

LIFETIME = timedelta(hours=1)


def keep(letter: DeadLetter, by: Person, values: Sequence[JSON]) -> str:
    """The key under which this person finds them again for this letter; "" without any. Forgets what is too old."""
    OutboxEntry.objects.filter(kind=OutboxKind.DRAFT, created_at__lt=timezone.now() - LIFETIME).delete()
    if not values:
        return ""
    key = f"{OutboxKind.DRAFT}:{letter.pk}:{token_urlsafe(24)}"
    opaque = b64encode(seal(json.dumps(values).encode())).decode()  # no database's JSON holds every text
    payload = {"user_id": by.user_id, "values": opaque}
    OutboxEntry.objects.create(kind=OutboxKind.DRAFT, key=key, status=OutboxStatus.DONE, payload=payload)
    return key


def find(key: str, letter: DeadLetter, by: Person) -> tuple[JSON, ...]:
    """None of them where they are too old, or another person's, or of another letter."""
    draft = _kept(key, letter).filter(created_at__gte=timezone.now() - LIFETIME).first()
    if draft is None or draft.payload.get("user_id") != by.user_id:
        return ()
    try:
        return tuple(json.loads(unseal(b64decode(draft.payload["values"]))))
    except EnvelopeError:  # encrypted with a key that is gone: they are typed once more
        return ()


def forget(key: str, letter: DeadLetter) -> None:
    _kept(key, letter).delete()


def _kept(key: str, letter: DeadLetter) -> "QuerySet[OutboxEntry]":
    if not re.fullmatch(rf"{OutboxKind.DRAFT}:{letter.pk}:[\w-]{{1,100}}", key, re.ASCII):
        return OutboxEntry.objects.none()
    return OutboxEntry.objects.filter(kind=OutboxKind.DRAFT, key=key)
