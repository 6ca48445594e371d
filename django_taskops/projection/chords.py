"""Chords as their publishers have told them, and which of them the housekeeper has to look at."""

from collections.abc import Iterable, Mapping, Sequence

from django.db.models import Q

from ..events import Chord as Told
from ..events import Event, EventKind
from ..models import Chord, TaskRun
from ..states import DeadLetterReason, QuietReason, TaskState
from .merge import Merged
from .rows import stored


def write(told: Sequence[Told]) -> None:
    """The first word stays. A member may have ended before it was said."""
    if not told:
        return
    rows = [
        Chord(
            group_id=chord.group_id,
            members=chord.members,
            body=chord.body,
            body_id=chord.body_id,
            created_at=stored(chord.at),
        )
        for chord in sorted(told, key=lambda chord: chord.group_id)
    ]
    Chord.objects.bulk_create(rows, ignore_conflicts=True)
    badly_ended = TaskRun.objects.filter(group_id__in=[row.group_id for row in rows], reason__in=BADLY_ENDED)
    _touch(set(badly_ended.values_list("group_id", flat=True)), set())


BADLY_ENDED = [*DeadLetterReason.values, QuietReason.UPSTREAM_FAILED]


def touch(merged: Iterable[Merged]) -> None:
    """Marks the chords of which a member has ended badly, and those of which one has succeeded after that."""
    failed, succeeded = set(), set()
    for run in (result.run for result in merged if result.run.call.group_id):
        if run.shown.dead or run.shown.never_sent:
            failed.add(run.call.group_id)
        elif run.shown.state == TaskState.SUCCESS:
            succeeded.add(run.call.group_id)
    _touch(failed, succeeded)


def _touch(failed: set[str], succeeded: set[str]) -> None:
    """Locked in the order of their keys: two writers may have the same ones."""
    if not failed and not succeeded:
        return
    wanted = Q(group_id__in=failed) | Q(group_id__in=succeeded, failed=True)
    rows = Chord.objects.select_for_update().filter(wanted).order_by("pk")
    if pks := list(rows.values_list("pk", flat=True)):
        Chord.objects.filter(pk__in=pks).update(failed=True, touched=True)


def without_stale(events: Sequence[Event]) -> Sequence[Event]:
    """Without what is said to be failed because of a task that has been put back since."""
    causes = {e.call.parent_id for e in events if e.kind is EventKind.UPSTREAM_FAILED and e.call is not None}
    if not causes:
        return events
    rows = TaskRun.objects.filter(task_id__in=causes, generation__gt=0)
    generations: Mapping[str, int] = dict(rows.values_list("task_id", "generation"))
    return [event for event in events if not _is_stale(event, generations)]


def _is_stale(event: Event, generations: Mapping[str, int]) -> bool:
    if event.kind is not EventKind.UPSTREAM_FAILED or event.call is None:
        return False
    return generations.get(event.call.parent_id, 0) > event.cause_generation
