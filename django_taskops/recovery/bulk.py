"""Decisions on thousands of letters, which a worker carries out: the letters are pinned when somebody decides, and
worked off in chunks by the housekeeper, with the progress written down after each.

What it takes to go on after a crash is in the entry itself. Letters that had been taken by then are not open any more,
so that none is sent twice.
"""

import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from os import getpid
from time import monotonic
from typing import Any

from django.db.models import Q
from django.utils import timezone

from ..capture.text import storable
from ..exceptions import AlreadyTaken, NotRequeueable
from ..models import AuditAction, DeadLetter, OutboxEntry, OutboxKind, OutboxStatus
from . import many
from .decide import Decided
from .intents import Order
from .message import Changes

MAX_LETTERS = 10_000
CHUNK = 100
CLAIM_SECONDS = 120  # for a chunk: a broker that does not answer takes a few seconds a letter
LONGEST_CALL_SECONDS = 5.0
MAX_TRIES = 12
MAX_REASONS = 50
STOPPED = "stopped"
UNREACHABLE = "the broker can't be reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why letters were not done. `sentence` is that of the first of them."""

    code: str
    sentence: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRun:
    """`unconfirmed` counts those of which nobody knows whether they were sent. `error` says why it waits, or ended
    before all was done. `finished_at` is None while there is something to do."""

    pk: int
    action: AuditAction
    order: Order
    total: int
    to_go: int
    done: int
    unconfirmed: int
    refused: Sequence[Reason]
    status: OutboxStatus
    error: str
    at_work: bool
    created_at: datetime
    finished_at: datetime | None


def hand_over(key: str, action: AuditAction, letters: Sequence[int], order: Order) -> bool:
    """Leaves it to the workers; False where that has been done before under this key, and changes nothing."""
    payload = {
        "action": action.value,
        "options": order.changes.as_payload(),
        "force": order.force,
        **order.decided.as_payload(),
        "total": len(letters),
        "letters": list(letters),
        "done": 0,
        "unconfirmed": 0,
        "refused": {},
        "begun": timezone.now().isoformat(),
    }
    key = f"{OutboxKind.MANY}:{key}"
    _entry, is_new = OutboxEntry.objects.get_or_create(key=key, defaults={"kind": OutboxKind.MANY, "payload": payload})
    return bool(is_new)


def stop(pk: int, who: str) -> bool:
    """Ends a run; what it has not come to stays as it is. False where it has ended already."""
    running = OutboxEntry.objects.filter(pk=pk, kind=OutboxKind.MANY, status=OutboxStatus.PENDING)
    return bool(running.update(status=OutboxStatus.FAILED, error=storable(f"{STOPPED}: {who}", 2000)))


def newest(limit: int) -> list[BulkRun]:
    """The newest first. One query."""
    return [_seen(entry) for entry in OutboxEntry.objects.filter(kind=OutboxKind.MANY).order_by("-pk")[:limit]]


def find(pk: int) -> BulkRun | None:
    entry = OutboxEntry.objects.filter(pk=pk, kind=OutboxKind.MANY).first()
    return None if entry is None else _seen(entry)


def is_under_way() -> bool:
    return bool(OutboxEntry.objects.filter(kind=OutboxKind.MANY, status=OutboxStatus.PENDING).exists())


def work_off() -> None:
    """Works on what was handed over, the oldest first, and begins no chunk after some five seconds."""
    until = monotonic() + LONGEST_CALL_SECONDS
    now = timezone.now()
    due = OutboxEntry.objects.filter(kind=OutboxKind.MANY, status=OutboxStatus.PENDING, available_at__lte=now)
    for pk in due.filter(_free(now)).order_by("pk").values_list("pk", flat=True)[:20]:
        if monotonic() < until and (entry := _claim(pk)) is not None:
            _work(entry, until)


def _free(now: datetime) -> Q:
    return Q(claimed_until=None) | Q(claimed_until__lt=now)


def _claim(pk: int) -> OutboxEntry | None:
    now = timezone.now()
    entry: OutboxEntry | None = OutboxEntry.objects.filter(_free(now), pk=pk, status=OutboxStatus.PENDING).first()
    if entry is None:
        return None
    holder = f"{socket.gethostname()[:30]} {getpid()} {secrets.token_hex(4)}"
    free = OutboxEntry.objects.filter(pk=pk, status=OutboxStatus.PENDING, claimed_until=entry.claimed_until)
    if not free.update(claimed_by=holder, claimed_until=now + timedelta(seconds=CLAIM_SECONDS)):
        return None
    entry.claimed_by = holder
    return entry


def _work(entry: OutboxEntry, until: float) -> None:
    """Until all is done, somebody has stopped it, the broker is away, or the time is up."""
    crashed = entry.claimed_until is not None  # whoever ends a call in peace leaves no claim
    while entry.payload["letters"] and monotonic() < until:
        cut_off = _advance(entry, after_crash=crashed)
        crashed = False
        if cut_off:
            return _postpone(entry)
        entry.tries = 0
        if not _save(entry, tries=0, error="", claimed_until=timezone.now() + timedelta(seconds=CLAIM_SECONDS)):
            return None
    status = OutboxStatus.PENDING if entry.payload["letters"] else OutboxStatus.DONE
    _save(entry, status=status, claimed_until=None)
    return None


def _advance(entry: OutboxEntry, *, after_crash: bool) -> bool:
    """One chunk; True where the broker could not be reached, so that some of it is left."""
    payload = entry.payload
    chunk, rest = payload["letters"][:CHUNK], payload["letters"][CHUNK:]
    order = _order(payload)
    taken = _taken_since(chunk, payload["begun"]) if after_crash else frozenset()
    left: list[int] = []
    for pk, outcome in many.decide_each(AuditAction(payload["action"]), chunk, order):
        if many.is_cut_off(outcome):
            left.append(pk)
        elif isinstance(outcome, Exception) and not (pk in taken and isinstance(outcome, AlreadyTaken)):
            _count(payload, outcome)
        else:
            payload["done"] += 1
    payload["letters"] = [*left, *rest]
    payload["begun"] = timezone.now().isoformat()
    return bool(left)


def _taken_since(chunk: Sequence[int], begun: str) -> frozenset[int]:
    """The letters that were decided on since the chunk was begun: by the process that has died on it."""
    since = datetime.fromisoformat(begun)
    return frozenset(DeadLetter.objects.filter(pk__in=chunk, decided_at__gte=since).values_list("pk", flat=True))


def _count(payload: dict[str, Any], error: Exception) -> None:
    code = _code(error)
    sends = payload["action"] == AuditAction.REQUEUE
    if code == "not_confirmed" or (code == "unexpected" and sends):
        payload["unconfirmed"] += 1
        return
    refused: dict[str, Any] = payload["refused"]
    code = code if code in refused or len(refused) < MAX_REASONS else "more"
    count, sentence = refused.get(code, (0, _sentence(error)))
    refused[code] = (count + 1, sentence)


def _code(error: Exception) -> str:
    if isinstance(error, NotRequeueable):
        return error.code
    return f"taken:{error.status}" if isinstance(error, AlreadyTaken) else "unexpected"


def _sentence(error: Exception) -> str:
    return storable(error.detail if isinstance(error, NotRequeueable) else repr(error), 500)


def _postpone(entry: OutboxEntry) -> None:
    tries = entry.tries + 1
    entry.tries = tries
    wait = timedelta(seconds=min(2 * 2**tries, 1800))
    status = OutboxStatus.PENDING if tries < MAX_TRIES else OutboxStatus.FAILED
    _save(entry, status=status, tries=tries, error=UNREACHABLE, claimed_until=None, available_at=timezone.now() + wait)


def _save(entry: OutboxEntry, **fields: Any) -> bool:
    """False where it was stopped, or is another process's by now. What was done is written down even so, as long as
    nobody else goes on with it."""
    ours = OutboxEntry.objects.filter(pk=entry.pk, claimed_by=entry.claimed_by)
    if ours.filter(status=OutboxStatus.PENDING).update(payload=entry.payload, **fields):
        return True
    ours.update(payload=entry.payload, claimed_until=None)
    return False


def _order(payload: Mapping[str, Any]) -> Order:
    changes = Changes.from_payload(payload["options"])
    return Order(changes=changes, decided=Decided.from_payload(payload), force=payload["force"])


def _seen(entry: OutboxEntry) -> BulkRun:
    payload = entry.payload
    finished = entry.status != OutboxStatus.PENDING
    return BulkRun(
        pk=entry.pk,
        action=AuditAction(payload["action"]),
        order=_order(payload),
        total=payload["total"],
        to_go=len(payload["letters"]),
        done=payload["done"],
        unconfirmed=payload["unconfirmed"],
        refused=sorted(_reasons(payload["refused"]), key=lambda reason: -reason.count),
        status=OutboxStatus(entry.status),
        error=entry.error,
        at_work=not finished and entry.claimed_until is not None and entry.claimed_until > timezone.now(),
        created_at=entry.created_at,
        finished_at=datetime.fromisoformat(payload["begun"]) if finished else None,
    )


def _reasons(refused: Mapping[str, Any]) -> Iterable[Reason]:
    for code, (count, sentence) in refused.items():
        yield Reason(code=code, sentence=sentence, count=count)
