"""The members of chords: who has succeeded, under which id, and where the result is."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from celery import Celery, states
from celery.app import app_or_default
from django.utils import timezone
from kombu.serialization import dumps, loads

from ..capture.call import app_of
from ..capture.envelope import Envelope
from ..capture.sealing import seal, unseal
from ..conf import conf
from ..models import Chord, ChordResult, TaskRun
from ..states import QuietReason, TaskState
from . import pollers

MAX_RESULTS = 500  # asked of the result backend for one chord, in one call
MAX_MOVES = 20  # of one task to another id
STORED_WITHIN = timedelta(seconds=5)


class Members:
    """The members of one chord: who has succeeded, under which id, and with which result."""

    def __init__(self, chord: Chord) -> None:
        self.chord = chord
        self.app = app_of(Envelope.from_bytes(chord.envelope)) if chord.envelope else app_or_default()
        self._ids = chord.member_ids
        self._kept = set(chord.results.values_list("task_id", flat=True))
        kept = {task_id: task_id for task_id in self._kept}  # runs are not kept for ever
        self._ran_as = kept | succeeded(self._ids)
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
        pending = _just_ended(self.lost)
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


def succeeded(task_ids: Collection[str]) -> dict[str, str]:
    """The members that have succeeded, with the id under which each has."""
    runs = TaskRun.objects.filter(state=TaskState.SUCCESS)
    found = {task_id: task_id for task_id in runs.filter(task_id__in=task_ids).values_list("task_id", flat=True)}
    moved = moves([task_id for task_id in task_ids if task_id not in found])
    there = runs.filter(task_id__in=moved).values_list("task_id", flat=True) if moved else ()
    return found | {moved[task_id]: task_id for task_id in there}


def moves(task_ids: Collection[str]) -> dict[str, str]:
    """The other ids under which these tasks have run since, as those do that had expired or were revoked: each with
    the id that it had first."""
    found: dict[str, str] = {}
    last = {task_id: task_id for task_id in task_ids}
    for _move in range(MAX_MOVES):
        rows = TaskRun.objects.filter(requeued_from__in=last).exclude(requeued_from="")  # as its partial index says
        told = list(rows.values_list("task_id", "requeued_from")) if last else ()
        last = {task_id: last[before] for task_id, before in told if task_id not in found}
        found |= last
    return found


def expired(chord: Chord, app: Celery) -> list[str]:
    """The members that have succeeded, and whose results are neither kept here, nor in the result backend any more: it
    had those that are too large to be kept. Raises what the result backend raises, within seconds."""
    settled = {*chord.lost, *chord.results.values_list("task_id", flat=True)}
    ran_as = succeeded([task_id for task_id in chord.member_ids if task_id not in settled])
    backend = pollers.impatient(app)
    asked = list(ran_as)[:MAX_RESULTS]  # more than that are not looked at yet, and are there
    gone = [each for each in asked if backend.get_task_meta(ran_as[each], cache=False)["status"] != states.SUCCESS]
    fresh = _just_ended(gone)
    return [task_id for task_id in gone if task_id not in fresh]


def _just_ended(task_ids: Collection[str]) -> set[str]:
    """Whose results may not be stored yet."""
    fresh = TaskRun.objects.filter(task_id__in=task_ids, finished_at__gte=timezone.now() - STORED_WITHIN)
    return set(fresh.values_list("task_id", flat=True)) if task_ids else set()
