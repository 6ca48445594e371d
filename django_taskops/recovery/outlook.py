"""What a requeue sets going besides the task itself, and what its failure has set going already, in sentences."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ..capture.downstream import steps
from ..capture.envelope import Envelope
from ..capture.text import storable_id
from ..exceptions import EnvelopeError
from ..models import Chord, DeadLetter, TaskRun
from .canvas import Following, dead_members, embed_of, following

NAMED = 5  # tasks, in one sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the tables say around some letters. `ran` is when the callbacks of which task, by task id, began to run:
    by name."""

    sizes: Mapping[str, int]
    dead: Mapping[str, Collection[str]]
    ran: Mapping[str, Mapping[str, datetime]]


def outlook(letters: Iterable[DeadLetter]) -> dict[int, list[str]]:
    """The sentences for each letter, by primary key. A few queries, whatever the number of letters."""
    follows = {letter: following(letter.envelope) for letter in letters}
    called = {letter: _called(letter) for letter in follows}
    known = _look(follows, called)
    return {
        letter.pk: [*_of_chain(each), *_of_chords(letter, each, known), *_of_callbacks(letter, called[letter], known)]
        for letter, each in follows.items()
    }


def _look(follows: Mapping[DeadLetter, Following], called: Mapping[DeadLetter, Mapping[str, Sequence[str]]]) -> _Known:
    groups = {storable_id(group) for each in follows.values() for group in each.groups}
    chords = Chord.objects.filter(group_id__in=groups).only("group_id", "members") if groups else ()
    return _Known(
        sizes={chord.group_id: len(chord.member_ids) for chord in chords},
        dead=dead_members(groups),
        ran=_ran({letter.task_id for letter, names in called.items() if any(names.values())}),
    )


def _ran(task_ids: Collection[str]) -> dict[str, dict[str, datetime]]:
    found: dict[str, dict[str, datetime]] = defaultdict(dict)
    if task_ids:
        runs = TaskRun.objects.filter(parent_id__in=task_ids, started_at__isnull=False)
        for parent, name, at in runs.order_by("started_at").values_list("parent_id", "task_name", "started_at"):
            found[parent][name] = at
    return found


def _called(letter: DeadLetter) -> dict[str, list[str]]:
    """The names of its callbacks and errbacks."""
    try:
        embed = embed_of(Envelope.from_bytes(letter.envelope or b"")) or {}
    except EnvelopeError:
        embed = {}
    bodies = [body.get("options") or {} for _group, body in following(letter.envelope).chords]
    return {
        "callbacks": _names(embed.get("callbacks")),
        "errbacks": [
            *_names(embed.get("errbacks")),
            *(name for options in bodies for name in _names(options.get("link_error"))),
        ],
    }


def _names(signatures: Any) -> list[str]:
    listed = signatures if isinstance(signatures, (list, tuple)) else [signatures]
    return [str(each.get("task") or "?") for each in listed if isinstance(each, Mapping)]


def _of_chain(follows: Following) -> list[str]:
    if not follows.readable:
        return [_("What follows it in a chain runs too; only a worker can read what that is.")]
    beyond = {task_id for _group, body in follows.chords for task_id, _step in steps((), body)}
    later = [name for task_id, name in follows.steps.items() if task_id not in beyond]
    if not later:
        return []
    text = ngettext(
        "Then runs: %(names)s (%(count)d later step of the chain).",
        "Then runs: %(names)s (%(count)d later steps of the chain).",
        len(later),
    )
    return [text % {"names": _listed(later), "count": len(later)}]


def _of_chords(letter: DeadLetter, follows: Following, known: _Known) -> list[str]:
    """Of the innermost one: those around it wait for that. One that waits for a parked task has not failed."""
    for group, body in follows.chords[:1]:
        size, dead = known.sizes.get(storable_id(group)), known.dead.get(storable_id(group), ())
        if size is not None:
            text = (
                _WAITING
                if letter.parked
                else _(
                    "This is 1 of %(dead)d failed members of a chord of %(size)d; its body %(body)s runs when all have "
                    "succeeded."
                )
            )
            return [text % {"dead": max(1, len(dead)), "size": size, "body": _short(_name_of(body))}]
    return []


_WAITING = gettext_lazy("Its chord of %(size)d waits; the body %(body)s runs when all members have succeeded.")


def _name_of(body: Mapping[str, Any]) -> str:
    """Of the first task of a body that is a canvas itself."""
    first = next((step for _task_id, step in steps((), body)), body)
    return str(first.get("task") or "?")


def _of_callbacks(letter: DeadLetter, called: Mapping[str, Sequence[str]], known: _Known) -> list[str]:
    ran = known.ran.get(letter.task_id, {})
    told = [
        _("The callback %(name)s already ran at %(at)s.") % {"name": _short(name), "at": _clock(ran[name])}
        for name in called["callbacks"]
        if name in ran
    ]
    for name in dict.fromkeys(called["errbacks"] if not letter.parked else ()):
        text = _("The errback %(name)s already ran at %(at)s, and runs again if the task fails again.")
        told.append(text % {"name": _short(name), "at": _clock(ran.get(name, letter.died_at))})
    return told


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(_short(name) for name in names[:NAMED])
    return f"{shown}, …" if len(names) > NAMED else shown


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _clock(at: datetime) -> str:
    """The time of a moment, with its day where that is not today."""
    local = timezone.localtime(at) if timezone.is_aware(at) else at
    today = local.date() == timezone.localdate() if timezone.is_aware(at) else local.date() == timezone.now().date()
    return date_format(local, "H:i" if today else "Y-m-d H:i")
