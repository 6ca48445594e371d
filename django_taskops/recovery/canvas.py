"""What follows a task by its message: the rest of its chain, and the chords that wait for it.

A task that is put back goes on with its chain by itself. Celery has given its chords up, though: from the first
requeue of a member on, this app joins them, and the message says so to the worker.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery.app import app_or_default
from django.db import DatabaseError
from django.utils.translation import gettext as _
from kombu.serialization import loads

from ..capture import headers as own
from ..capture.call import app_of
from ..capture.chords import Canvas, enclosing
from ..capture.downstream import steps
from ..capture.envelope import Envelope
from ..capture.text import storable_id
from ..events import EventKind
from ..exceptions import EnvelopeError, NotRequeueable
from ..models import Chord, DeadLetter, TaskAttempt, TaskRun
from ..projection import rows
from ..states import LetterStatus, TaskState
from .members import expired, moves

NAMED = 5  # tasks, in one sentence
NOTHING = Canvas((), None)
READABLE = ("application/json", "application/x-yaml", "application/x-msgpack")

logger = logging.getLogger("django_taskops")


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """What follows a task, as its message says it: `envelope`, None where it can't be read. `chords` wait for it, the
    innermost first: group id and body; `groups` are the ids of all that do, as far as they are known. `readable` is
    False where only a worker can read the message, and it is not known what follows."""

    envelope: Envelope | None = None
    canvas: Canvas = NOTHING
    chords: Sequence[tuple[str, Any]] = ()
    groups: Sequence[str] = ()
    readable: bool = True

    @property
    def steps(self) -> dict[str, str]:
        """The names of all tasks that follow, by their frozen ids, in the order in which they would run."""
        return {task_id: str(step.get("task") or "") for task_id, step in steps(*self.canvas)}


def following(blob: bytes | memoryview | None) -> Following:
    """By the envelope of a task; nothing where there is none."""
    try:
        envelope = Envelope.from_bytes(blob or b"")
    except EnvelopeError:
        return Following()
    named, own_group = envelope.headers.get(own.JOINED), envelope.headers.get("group")
    groups = list(map(str, named)) if isinstance(named, list) else []
    try:
        canvas = canvas_of(envelope)
        around = list(enclosing(own_group, canvas)) if canvas else []
    except (TypeError, ValueError, LookupError, AttributeError):  # Celery has not made it; a worker will say the same
        canvas = None
    if canvas is None:
        groups = groups or ([str(own_group)] if own_group else [])
        return Following(envelope=envelope, groups=groups, readable=False)
    found = [group for group, _body in around]
    groups = [*found, *(group for group in groups if group not in found)]
    return Following(envelope=envelope, canvas=canvas, chords=around, groups=groups)


def canvas_of(envelope: Envelope, accept: Iterable[str] = READABLE) -> Canvas | None:
    """None where the body is in none of the content types that `accept` names. Unpickles nothing unless told to."""
    embed = embed_of(envelope, accept)
    return None if embed is None else Canvas(tuple(embed.get("chain") or ()), embed.get("chord"))


def embed_of(envelope: Envelope, accept: Iterable[str] = READABLE) -> Mapping[str, Any] | None:
    """What the body says beside the arguments: chain, chord, callbacks, errbacks."""
    try:
        body: Any = loads(envelope.body, envelope.content_type, envelope.content_encoding, accept=set(accept))
        _args, _kwargs, embed = body
    except Exception:  # noqa: BLE001 whatever decoding raises; a worker will say the same
        return None
    return embed if isinstance(embed, Mapping) else None


def joined_groups(letter: DeadLetter, follows: Following) -> Sequence[str]:
    """The chords that this app joins once the letter's task is put back. None for one that is parked: Celery has not
    heard of its failure, and goes on with its chord."""
    return () if letter.parked else follows.groups


class KnownChords:
    """Says of letters whether the chords that wait for their tasks can be joined. Asks for each chord once, and no
    result backend again that is away."""

    def __init__(self) -> None:
        self._lost: dict[str, Sequence[str] | None] = {}
        self._backend_is_away = False

    def check(self, letter: DeadLetter, follows: Following) -> None:
        """Raises NotRequeueable where a chord waits for the task that nobody could join any more."""
        if not (letter.parked or follows.readable):
            _check_unread(letter)
            return
        for group in joined_groups(letter, follows):
            self._check_chord(letter, self._lost_of(storable_id(group), follows.envelope))

    def _lost_of(self, group_id: str, envelope: Envelope | None) -> Sequence[str] | None:
        if group_id not in self._lost:
            chord = Chord.objects.filter(group_id=group_id).defer("envelope").first()
            self._lost[group_id] = chord and [*chord.lost, *self._expired(chord, envelope)]
        return self._lost[group_id]

    def _expired(self, chord: Chord, envelope: Envelope | None) -> Sequence[str]:
        if self._backend_is_away:
            return ()
        try:
            return expired(chord, app_of(envelope) if envelope else app_or_default())
        except DatabaseError:
            raise
        except Exception:  # a requeue waits for no result backend
            logger.warning("django-taskops: the results of chord %s can't be looked for", chord.group_id, exc_info=True)
            self._backend_is_away = True
            return ()

    def _check_chord(self, letter: DeadLetter, lost: Sequence[str] | None) -> None:
        if lost is None:
            raise NotRequeueable(
                "chord_unknown",
                _(
                    "not safely re-runnable: a chord waits for it, and its members are not known here; it was "
                    "published without this app, or is not published completely yet"
                ),
            )
        if gone := [task_id for task_id in lost if task_id != letter.task_id]:
            raise NotRequeueable(
                "chord_results_lost",
                _(
                    "not safely re-runnable: the results of other members of its chord are gone, and its body needs "
                    "them: %(members)s; run those again under their ids, or publish the chord anew"
                )
                % {"members": _named(gone)},
            )


def _check_unread(letter: DeadLetter) -> None:
    given_up = TaskRun.objects.filter(parent_id=letter.task_id, verdict=EventKind.UPSTREAM_FAILED)
    groups = [letter.run.group_id, *given_up.values_list("group_id", flat=True)]
    if Chord.objects.filter(group_id__in=groups).exists():
        raise NotRequeueable(
            "canvas_unreadable",
            _("not safely re-runnable: only a worker can read its message, and a chord waits for it"),
        )


def _named(task_ids: Sequence[str]) -> str:
    names = dict(TaskRun.objects.filter(task_id__in=task_ids[:NAMED]).values_list("task_id", "task_name"))
    shown = ", ".join(f"{names.get(task_id, '?')} {task_id}" for task_id in task_ids[:NAMED])
    return f"{shown}, …" if len(task_ids) > NAMED else shown


def take_over(letters: Iterable[tuple[DeadLetter, Following]]) -> None:
    """From now on this app joins the chords that wait for the tasks of these letters, as their messages say to the
    worker. In the transaction of the intents."""
    envelopes: dict[str, Any] = {}
    for letter, follows in letters:
        for group in joined_groups(letter, follows):
            envelopes.setdefault(storable_id(group), letter.envelope)
    if not envelopes:
        return
    found = Chord.objects.select_for_update().filter(group_id__in=envelopes).defer("members").order_by("pk")
    for chord in found:
        chord.envelope = chord.envelope or envelopes[chord.group_id]
        chord.failed = chord.touched = True
        chord.save(update_fields=["envelope", "failed", "touched"])


def downstream(letters: Iterable[tuple[DeadLetter, Following]]) -> dict[int, list[str]]:
    """The ids of what will run after the tasks of these letters, by the letter's primary key, as far as nothing else
    stands in the way: what waits for a chord of which another member is dead is left out."""
    follows = {letter.pk: each for letter, each in letters}
    blocked = dead_members({storable_id(group) for each in follows.values() for group in each.groups})
    return {pk: list(_unblocked(each, blocked)) for pk, each in follows.items()}


def _unblocked(follows: Following, blocked: Mapping[str, Collection[str]]) -> Iterator[str]:
    beyond: set[str] = set()
    for group, body in follows.chords:
        if blocked.get(storable_id(group)):
            beyond = {task_id for task_id, _step in steps((), body)}
            break
    return (task_id for task_id in follows.steps if task_id not in beyond)


def dead_members(groups: Collection[str]) -> dict[str, set[str]]:
    """By group id, the members of these chords that are dead and wait for somebody, or wait in vain for what is."""
    if not groups:
        return {}
    found = Chord.objects.filter(group_id__in=groups).only("group_id", "members")
    group_of = {task_id: chord.group_id for chord in found for task_id in chord.member_ids}
    given_up = TaskRun.objects.filter(task_id__in=group_of, verdict=EventKind.UPSTREAM_FAILED)
    causes = dict(given_up.values_list("parent_id", "task_id"))
    came_from = TaskRun.objects.filter(task_id__in=causes).exclude(requeued_from="")
    causes |= {first: causes[task_id] for task_id, first in came_from.values_list("task_id", "requeued_from")}
    member_of = causes | {task_id: task_id for task_id in group_of}
    member_of |= {task_id: member_of[first] for task_id, first in moves(member_of).items()}
    waiting = DeadLetter.objects.filter(task_id__in=member_of, status__in=_NOT_UNDER_WAY)
    dead: dict[str, set[str]] = defaultdict(set)
    for task_id in waiting.values_list("task_id", flat=True):
        dead[group_of[member_of[task_id]]].add(member_of[task_id])
    return dead


_NOT_UNDER_WAY = (LetterStatus.OPEN, LetterStatus.DISCARDED)


def expect(task_ids: Collection[str]) -> None:
    """Runs that were given up, and may run yet, wait again; that they were is kept in their history. Inside a
    transaction."""
    if not task_ids:
        return
    given_up = TaskRun.objects.filter(task_id__in=map(storable_id, task_ids), verdict=EventKind.UPSTREAM_FAILED)
    runs = list(given_up.select_for_update().order_by("pk"))
    history = [rows.new_attempt(run.pk, rows.run_of(run).shown) for run in runs]
    TaskAttempt.objects.bulk_create(history, ignore_conflicts=True)
    TaskRun.objects.filter(pk__in=[run.pk for run in runs]).update(
        delivery="",
        verdict="",
        state=TaskState.PENDING,
        reason="",
        finished_at=None,
        exception_type="",
        exception_message="",
        traceback="",
    )
