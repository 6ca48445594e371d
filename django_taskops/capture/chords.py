"""Chords: told when they are published, and let go where this app joins them in Celery's place.

The message of a task that was put back still names its chord, which Celery has given up. Its header says so, and what
is let go here is the task's part in that chord: before Celery counts it once more.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from celery import canvas
from celery.result import GroupResult

from .. import journal
from ..conf import conf
from ..events import Chord
from . import headers as own
from .shield import shielded
from .text import storable, storable_id

MAX_MEMBERS = 10_000


class Canvas(NamedTuple):
    """What a message says of what follows: the next steps, the last one first, and the chord that it belongs to."""

    chain: tuple[Any, ...]
    chord: Any


def tell_chords() -> None:
    """From now on this process tells of each chord that it publishes."""
    known: Any = canvas
    chord = known.chord  # a class, whatever the stubs say
    run = chord.run
    if hasattr(run, "taskops_tells"):
        return

    @wraps(run)
    def telling(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = run(self, *args, **kwargs)
        _tell(self, result)
        return result

    telling.taskops_tells = True  # type: ignore[attr-defined]
    chord.run = telling


@shielded
def _tell(chord: Any, result: Any) -> None:
    """Celery links the result of a chord that it has published to that of its header."""
    header: Any = getattr(result, "parent", None)
    if not isinstance(header, GroupResult) or not _is_tracked(chord):
        return
    members = _members(header)
    if 0 < _count(members) <= MAX_MEMBERS:
        body = storable((chord.kwargs.get("body") or {}).get("task"))
        ids = {"group_id": storable_id(str(header.id)), "body_id": storable_id(str(result.id))}
        journal.current().append(Chord(members=members, at=datetime.now(UTC), body=body, **ids))


def _is_tracked(chord: Any) -> bool:
    names = {str(member.get("task")) for member in getattr(chord.tasks, "tasks", chord.tasks)}
    return any(conf.tracks(name) or name in _CANVASES for name in names)


_CANVASES = frozenset({"celery.chain", "celery.group", "celery.chord"})


def _members(header: Any) -> tuple[Any, ...]:
    return tuple(_members(one) if isinstance(one, GroupResult) else storable_id(one.id) for one in header.results)


def _count(members: Sequence[Any]) -> int:
    return sum(_count(member) if isinstance(member, tuple) else 1 for member in members)


_let_go: WeakKeyDictionary[Any, Canvas] = WeakKeyDictionary()
"""By request: its canvas as its message says it."""


def canvas_of(request: Any) -> Canvas:
    """The canvas of the task that a process executes, chords that were let go included."""
    return _let_go.get(request) or Canvas(tuple(request.chain or ()), request.chord)


@shielded
def let_go(request: Any) -> None:
    """In the process that executes the task, before anything else happens to it."""
    if not (joined := own.joined(vars(request))):
        return
    _let_go[request] = Canvas(tuple(request.chain or ()), request.chord)
    if request.group in joined:
        request.chord = None
    request.chain = [without_chords(step, joined) for step in request.chain or ()]


@shielded
def let_go_in_main(request: Any) -> None:
    """The same in the worker's main process, which tells Celery of failures too. `request` is a worker's Request."""
    joined = own.joined(request.request_dict)
    embed: Any = request._payload[2] if joined else None  # noqa: SLF001
    if not embed:
        return
    request.taskops_canvas = Canvas(tuple(embed.get("chain") or ()), embed.get("chord"))
    if request.request_dict.get("group") in joined:
        embed["chord"] = None
    embed["chain"] = [without_chords(step, joined) for step in embed.get("chain") or ()]


@contextmanager
def held_again(request: Any) -> Iterator[None]:
    """While a task sends its own next attempt, whose message has to name all that the message of this one names."""
    said = _let_go.get(request)
    if said is None:
        yield
        return
    now = request.chain, request.chord
    request.chain, request.chord = list(said.chain) or None, said.chord
    try:
        yield
    finally:
        request.chain, request.chord = now


def without_chords(signature: Any, joined: frozenset[str]) -> Any:
    """A copy of a frozen `signature` that does not report to the chords of these groups when it has run."""
    if not isinstance(signature, Mapping):
        return signature
    options, kwargs = dict(signature.get("options") or {}), signature.get("kwargs")
    if options.get("group_id") in joined:
        options.pop("chord", None)
    if options.get("chain"):
        options["chain"] = [without_chords(step, joined) for step in options["chain"]]
    if signature.get("subtask_type") in _PARTS and isinstance(kwargs, Mapping):
        kwargs = dict(kwargs)
        for name in _PARTS[signature["subtask_type"]]:
            kwargs[name] = _each_without(kwargs.get(name), joined)
    return {**signature, "options": options, "kwargs": kwargs}


_PARTS: Mapping[str, Sequence[str]] = {"chain": ("tasks",), "group": ("tasks",), "chord": ("body",)}


def _each_without(part: Any, joined: frozenset[str]) -> Any:
    if isinstance(part, (list, tuple)):
        return [without_chords(each, joined) for each in part]
    return without_chords(part, joined)


def enclosing(group_id: Any, said: Canvas) -> Iterator[tuple[str, Any]]:
    """The chords that wait for the task of this group and canvas, the innermost first: group id and body."""
    signature: Any = {"options": {"group_id": group_id, "chord": said.chord, "chain": said.chain}}
    seen: set[str] = set()
    while isinstance(signature, Mapping):
        options = _last_of(signature).get("options") or {}
        group, body = str(options.get("group_id") or ""), options.get("chord")
        if not group or body is None or group in seen:
            return
        seen.add(group)
        yield group, body
        signature = body


def _last_of(signature: Mapping[str, Any]) -> Mapping[str, Any]:
    """The step whose end is the end of the whole."""
    while True:
        chain = (signature.get("options") or {}).get("chain")
        kwargs = signature.get("kwargs") or {}
        kind = signature.get("subtask_type")
        inner = chain[0] if chain else kwargs["tasks"][-1] if kind == "chain" and kwargs.get("tasks") else None
        if inner is None and kind == "chord":
            inner = kwargs.get("body")
        if not isinstance(inner, Mapping):
            return signature
        signature = inner
