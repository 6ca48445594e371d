"""Joins the chords that Celery has given up, once all their members have succeeded after all."""

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from celery import Celery, states
from celery.app import app_or_default
from celery.canvas import group, maybe_signature
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone
from kombu.serialization import dumps, loads, prepare_accept_content

from ..capture import chords
from ..capture import headers as own
from ..capture.call import app_of
from ..capture.downstream import steps
from ..capture.envelope import Envelope
from ..capture.sealing import seal, unseal
from ..capture.text import storable_id
from ..conf import conf
from ..models import Chord, ChordResult, OutboxEntry, OutboxKind, TaskRun
from ..projection.chords import BADLY_ENDED
from ..projection.writer import lock_for_writing
from ..states import FINISHED, QuietReason, TaskState
from . import pollers
from .canvas import canvas_of, dead_members

AT_ONCE = 100  # chords, in one call
MAX_RESULTS = 500  # asked of the result backend for one chord, in one call
MAX_MOVES = 20  # of one task to another id
SECONDS_BETWEEN_REMINDERS = 60.0
RESULTS_KEPT = timedelta(hours=1)  # after the body was sent
MAX_FORGOTTEN = 1000
LOOKED_BACK = timedelta(hours=1)
STORED_WITHIN = timedelta(seconds=5)
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


class Members:
    """The members of one chord: who has succeeded, under which id, and with which result."""

    def __init__(self, chord: Chord) -> None:
        self.chord = chord
        self.app = app_of(Envelope.from_bytes(chord.envelope)) if chord.envelope else app_or_default()
        self._ids = chord.member_ids
        self._kept = set(chord.results.values_list("task_id", flat=True))
        self._ran_as = {task_id: task_id for task_id in self._kept} | _succeeded(
            self._ids
        )  # runs are not kept for ever
        unsettled = [task_id for task_id in self._ids if task_id not in self._ran_as]
        self.lost: list[str] = []
        self.missing = [task_id for task_id in unsettled if not self._has_silently_succeeded(task_id)]

    def _has_silently_succeeded(self, task_id: str) -> bool:
        """True of a member of whose success the tables can't know: one that is not tracked, or was replaced by one."""
        if self.chord.envelope is None:
            return False
        run = TaskRun.objects.filter(task_id=task_id).only("reason").first()
        if run is not None and run.reason != QuietReason.REPLACED:
            return False
        if self.app.backend.get_task_meta(task_id, cache=False)["status"] != states.SUCCESS:
            return False
        self._ran_as[task_id] = task_id
        return True

    def keep(self) -> bool:
        """Keeps the results that are there, and finds out which are lost; True where more are to be kept."""
        wanted = [task_id for task_id in self._ran_as if task_id not in self._kept]
        rows = [row for task_id in wanted[:MAX_RESULTS] if (row := self._row(task_id))]
        ChordResult.objects.bulk_create(rows, ignore_conflicts=True)
        self._kept |= {row.task_id for row in rows}
        return len(wanted) > MAX_RESULTS

    def part_pending(self) -> bool:
        """Takes out of the lost those that have ended just now: a success may be told before its result is stored."""
        now = timezone.now()
        fresh = TaskRun.objects.filter(task_id__in=self.lost, finished_at__gte=now - STORED_WITHIN)
        pending = set(fresh.values_list("task_id", flat=True)) if self.lost else set()
        self.missing += pending
        self.lost = [task_id for task_id in self.lost if task_id not in pending]
        return bool(pending)

    def _row(self, task_id: str) -> ChordResult | None:
        """None where there is none, or it is too large: then the result backend is asked once more in the end."""
        meta = self.app.backend.get_task_meta(self._ran_as[task_id], cache=False)
        if meta["status"] != states.SUCCESS:
            self.lost.append(task_id)
            return None
        dumped: Any
        content_type, encoding, dumped = dumps(meta["result"], serializer=self.app.conf.result_serializer)
        data = dumped.encode(encoding) if isinstance(dumped, str) else bytes(dumped)
        if len(data) > conf.PAYLOAD_MAX_BYTES:
            return None
        return ChordResult(
            chord=self.chord, task_id=task_id, content_type=content_type, content_encoding=encoding, result=seal(data)
        )

    def results(self) -> list[Any]:
        """In the order and the shape of the header. Raises LookupError where one is gone."""
        known: dict[str, Any] = {}
        for row in self.chord.results.all():
            data: Any = unseal(bytes(row.result))
            known[row.task_id] = loads(data, row.content_type, row.content_encoding, accept={row.content_type})
        return self._shaped(self.chord.members, known)

    def _shaped(self, members: Sequence[Any], known: Mapping[str, Any]) -> list[Any]:
        return [
            self._shaped(member, known) if isinstance(member, list) else self._result(member, known)
            for member in members
        ]

    def _result(self, task_id: str, known: Mapping[str, Any]) -> Any:
        if task_id in known:
            return known[task_id]
        meta = self.app.backend.get_task_meta(self._ran_as.get(task_id, task_id), cache=False)
        if meta["status"] != states.SUCCESS:
            raise LookupError(f"expected the result of {task_id}, the result backend has none any more")
        return meta["result"]


def _succeeded(task_ids: Sequence[str]) -> dict[str, str]:
    """The members that have succeeded, with the id under which each has: one that had expired runs under another."""
    runs = TaskRun.objects.filter(task_id__in=task_ids, state=TaskState.SUCCESS)
    found = {task_id: task_id for task_id in runs.values_list("task_id", flat=True)}
    moved = {task_id: task_id for task_id in task_ids if task_id not in found}  # by the id where it is now
    for _move in range(MAX_MOVES):
        rows = TaskRun.objects.filter(requeued_from__in=moved).exclude(requeued_from="")  # as its partial index says
        told = rows.values_list("requeued_from", "task_id", "state") if moved else ()
        now = [(moved[before], task_id, state) for before, task_id, state in told]
        found |= {origin: task_id for origin, task_id, state in now if state == TaskState.SUCCESS}
        moved = {task_id: origin for origin, task_id, state in now if state != TaskState.SUCCESS}
    return found


def send_body(entry: OutboxEntry) -> None:
    """Sends the body of a chord with the results of its header, unless somebody has. Raises what stands in the way."""
    chord = Chord.objects.get(group_id=entry.payload["group_id"])
    app = app_of(Envelope.from_bytes(chord.envelope or b""))
    body, enclosing = _body_of(chord, app)
    if not _was_sent(body, app):
        signature: Any = maybe_signature(chords.without_chords(body, enclosing), app=app)
        results = Members(chord).results()
        pollers.hold(app, [task_id for task_id, _step in steps((), body)])
        with own.sent_as(entry.payload["publication"], **_outliving(signature)):
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
