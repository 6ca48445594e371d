"""Joins the chords that Celery has given up, once all their members have succeeded after all."""

import logging
import time
from datetime import timedelta
from typing import Any

from celery import Celery, states
from celery.canvas import group, maybe_signature
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone
from kombu.serialization import prepare_accept_content

from ..capture import chords
from ..capture import headers as own
from ..capture.call import app_of
from ..capture.downstream import steps
from ..capture.envelope import Envelope
from ..capture.text import storable_id
from ..conf import conf
from ..models import Chord, ChordResult, OutboxEntry, OutboxKind, TaskRun
from ..projection.chords import BADLY_ENDED
from ..projection.writer import lock_for_writing
from ..states import FINISHED
from . import pollers
from .canvas import canvas_of, dead_members
from .members import Members

AT_ONCE = 100  # chords, in one call
SECONDS_BETWEEN_REMINDERS = 60.0
RESULTS_KEPT = timedelta(hours=1)  # after the body was sent
MAX_FORGOTTEN = 1000
LOOKED_BACK = timedelta(hours=1)
GRACE = timedelta(seconds=2)

logger = logging.getLogger("django_taskops")


class Joins:
    """The housekeeper's chore: looks at the chords in which something has happened. One that can't be looked at now
    stays marked, and has its turn again with the next reminder."""

    def __init__(self) -> None:
        self._remind_at = time.monotonic() + SECONDS_BETWEEN_REMINDERS
        self._put_off: set[int] = set()

    def __call__(self) -> None:
        if time.monotonic() >= self._remind_at:
            self._remind_at = time.monotonic() + SECONDS_BETWEEN_REMINDERS
            self._put_off.clear()
            _waiting().filter(touched=False).update(touched=True)
            _find_failed()
            _forget_results()
        for chord in Chord.objects.filter(touched=True).exclude(pk__in=self._put_off).order_by("pk")[:AT_ONCE]:
            try:
                chord.refresh_from_db()
                look_at(chord)
            except Exception as error:  # noqa: BLE001 the result backend, or what it has stored
                self._put_off.add(chord.pk)
                logger.warning("django-taskops: the chord %s can't be looked at now: %r", chord.group_id, error)


def _find_failed() -> None:
    """A chord and the death of its member may have been written at once, and neither have seen the other."""
    dead = TaskRun.objects.filter(group_id=OuterRef("group_id"), reason__in=BADLY_ENDED)
    recent = Chord.objects.filter(failed=False, created_at__gte=timezone.now() - LOOKED_BACK)
    recent.filter(Exists(dead)).update(failed=True, touched=True)


def _forget_results() -> None:
    """The message of the body has them."""
    sent = ChordResult.objects.filter(chord__joined_at__lt=timezone.now() - RESULTS_KEPT)
    ChordResult.objects.filter(pk__in=list(sent.values_list("pk", flat=True)[:MAX_FORGOTTEN])).delete()


def _waiting() -> Any:
    return Chord.objects.filter(envelope__isnull=False, joined_at=None)


def look_at(chord: Chord) -> None:
    """Keeps the results of its members, and has its body sent where all have succeeded. Raises what the result
    backend raises; then, and if the process dies, it is still touched."""
    endings = _endings(chord)
    if chord.joined_at is not None:
        _done(chord, endings)
        return
    members = Members(chord)
    more = members.keep()
    pending = members.part_pending()
    if members.lost != chord.lost:
        Chord.objects.filter(pk=chord.pk).update(lost=members.lost)
    if more or pending:
        return
    if chord.waiting and not members.missing and not members.lost:
        _latch(chord)
    elif chord.waiting and dead_members([chord.group_id]):
        _fail_again(chord, members.app)
    _done(chord, endings)


def _endings(chord: Chord) -> set[tuple[Any, ...]]:
    """All that touches a chord, beside a requeue."""
    ended = TaskRun.objects.filter(group_id=chord.group_id).exclude(group_id="").filter(state__in=sorted(FINISHED))
    return set(ended.values_list("pk", "delivery", "state", "reason"))


def _done(chord: Chord, endings: set[tuple[Any, ...]]) -> None:
    """It has been looked at, unless something has happened since. What happens from now on waits for the lock, and
    touches it again."""
    with transaction.atomic(using=conf.DATABASE):
        lock_for_writing()
        now = Chord.objects.select_for_update().get(pk=chord.pk)
        if (now.envelope is None) == (chord.envelope is None) and _endings(chord) == endings:
            Chord.objects.filter(pk=chord.pk).update(touched=False)


def _fail_again(chord: Chord, app: Celery) -> None:
    """Whoever waits for its body in the result backend is told that a member has failed once more: nobody else does."""
    body, _enclosing = _body_of(chord, app)
    pollers.give_back(app, dict.fromkeys(task_id for task_id, _step in steps((), body)))


def _latch(chord: Chord) -> None:
    """Whoever finds it complete first has its body sent: the key of the entry is that of the chord alone."""
    with transaction.atomic(using=conf.DATABASE):
        if Chord.objects.filter(pk=chord.pk, joined_at=None).update(joined_at=timezone.now()):
            payload = {"group_id": chord.group_id, "publication": own.new_publication()}
            key, due = f"{OutboxKind.CHORD}:{chord.pk}", timezone.now() + _grace(chord)
            entry = OutboxEntry(kind=OutboxKind.CHORD, key=key, payload=payload, available_at=due)
            OutboxEntry.objects.bulk_create([entry], ignore_conflicts=True)


def _grace(chord: Chord) -> timedelta:
    """How long Celery may still be about to send the body itself: with django-db a part that returns last joins the
    results as they are by then, and its success may be told before that."""
    ended = TaskRun.objects.filter(task_id__in=chord.member_ids, generation=0, finished_at__gte=timezone.now() - GRACE)
    return GRACE if ended.exists() else timedelta()


def send_body(entry: OutboxEntry) -> None:
    """Sends the body of a chord with the results of its header, unless somebody has. Raises what stands in the way."""
    chord = Chord.objects.get(group_id=entry.payload["group_id"])
    app = app_of(Envelope.from_bytes(chord.envelope or b""))
    body, enclosing = _body_of(chord, app)
    if not _was_sent(body, app):
        signature: Any = maybe_signature(chords.without_chords(body, enclosing), app=app)
        results = Members(chord).results()
        task_ids = [task_id for task_id, _step in steps((), body)]
        pollers.hold(app, task_ids)
        with own.sent_as(entry.payload["publication"], task_ids, **_outliving(signature)):
            signature.apply_async((results,))


def _outliving(signature: Any) -> dict[str, Any]:
    """Since 5.6 Celery revokes the tasks of a group that is the body of a chord that it gives up."""
    return {own.OUTLIVES: True} if isinstance(signature, group) else {}


def _body_of(chord: Chord, app: Celery) -> tuple[Any, frozenset[str]]:
    """The signature of its body, and the groups of the chords around it. Decoded as this worker decodes messages."""
    envelope = Envelope.from_bytes(chord.envelope or b"")
    canvas = canvas_of(envelope, prepare_accept_content(app.conf.accept_content) or ())
    if canvas is None:
        raise LookupError(f"expected a message that can be decoded, got one in {envelope.content_type}")
    around = list(chords.enclosing(envelope.headers.get("group"), canvas))
    body = next((body for group, body in around if storable_id(group) == chord.group_id), None)
    if body is None:
        raise LookupError("expected a message that names the chord, found none in it")
    return body, frozenset(group for group, _body in around)


def _was_sent(body: Any, app: Celery) -> bool:
    """True where Celery has joined the chord after all, or we have."""
    frozen = {storable_id(task_id): step for task_id, step in steps((), body)}
    if TaskRun.objects.filter(task_id__in=frozen).exclude(described="").exists():
        return True
    untracked = [task_id for task_id, step in frozen.items() if not conf.tracks(str(step.get("task")))]
    return any(app.backend.get_state(task_id) == states.SUCCESS for task_id in untracked[:1])
