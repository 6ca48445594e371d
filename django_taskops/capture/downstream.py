"""What will never run because a task has failed: the rest of its chain and the body of its chord.

Their ids are frozen into the canvas when it is published, so that they can be named though nobody publishes them.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import UUID, uuid5

from celery import Celery, current_app

from .. import journal
from ..conf import conf
from ..events import Call, Event, EventKind, Outcome
from ..exceptions import EnvelopeError
from .call import describe, task_of, without_envelope
from .shield import shielded
from .text import storable, storable_id

MAX_STEPS = 1000  # of one canvas; a longer one is told in part
MAX_SECONDS = 0.25  # for one canvas: a worker's main process may be waiting for it
MAX_TOLD = 10_000
RESULT_BEFORE = "<the result before>"
_NAMESPACE = UUID("5f0c1b1e-5d0a-4c0b-9a63-0f4f2f6f0a51")
_NO_MESSAGE = "an earlier step failed: requeue that one"
SECONDS_TOLD = 2.0  # then it is told again: a member of its chord may have been put back meanwhile
_told: dict[tuple[str, str, int], float] = {}
"""What this process has told lately, by step and cause, and until when it need not be told again. The members of a
chord are one cause: each names its body and all that follows."""


def tell_upstream_failed(cause: Event, *, chain: Any, chord: Any, root: Any) -> None:
    """Appends an event for each task that waits for the one that `cause` is about. `chain`, `chord` and `root` are what
    its request says: signatures of the next steps, the last one first; the signature of the chord's body; the root id,
    which is theirs as well."""
    over = time.monotonic() + MAX_SECONDS
    for task_id, step in islice(steps(chain, chord), MAX_STEPS):
        now = time.monotonic()
        if now > over:
            return
        told = (task_id, "" if chord else cause.task_id, cause.generation)
        if now > _told.get(told, 0):
            _tell(cause, task_id, step, root)
            _remember(told, now)


def _remember(step: tuple[str, str, int], now: float) -> None:
    if len(_told) >= MAX_TOLD:
        _told.clear()
    _told[step] = now + SECONDS_TOLD


@shielded
def _tell(cause: Event, task_id: str, step: Mapping[str, Any], root: Any) -> None:
    if (event := upstream_failed(cause, task_id, step, root)) is not None:
        journal.current().append(event)


@shielded
def upstream_failed(cause: Event, task_id: str, step: Mapping[str, Any], root: Any) -> Event | None:
    """That the task with this frozen id and signature waits in vain. None where it is not tracked, or its signature is
    odd, which must not cost the others their word. `delivery` names the step alone, so that it is one however many
    failures stand before it."""
    name = str(step.get("task") or "")
    if not conf.tracks(name):
        return None
    return Event(
        kind=EventKind.UPSTREAM_FAILED,
        task_id=storable_id(task_id),
        task_name=storable(name),
        at=cause.at,
        delivery=str(uuid5(_NAMESPACE, task_id)),
        cause_generation=cause.generation,
        call=_call(cause, current_app, name, step, root),
        outcome=Outcome(exception_message=_because(cause), dead_letter=False),
    )


def _call(cause: Event, app: Celery, name: str, step: Mapping[str, Any], root: Any) -> Call:
    """As far as it is known. The result of the step before would be the first argument: its place is kept, since
    secrets are masked by the names of places."""
    options: Mapping[str, Any] = step["options"]
    args, kwargs = step.get("args"), step.get("kwargs")
    args = list(args) if isinstance(args, (list, tuple)) else []
    headers = {
        "parent_id": cause.task_id,
        "root_id": options.get("root_id") or root,
        "group": options.get("group_id"),
        "group_index": options.get("group_index"),
    }
    fields = describe(
        headers,
        args if step.get("immutable") else [RESULT_BEFORE, *args],
        kwargs if isinstance(kwargs, Mapping) else {},
        task=task_of(app, name),
        queue=options.get("queue") or "",
        priority=options.get("priority"),
    )
    return without_envelope(fields, EnvelopeError(_NO_MESSAGE))


def _because(cause: Event) -> str:
    said = cause.outcome.exception_message if cause.outcome else ""
    return storable(f"{cause.task_name} {cause.task_id} ended before: {said or cause.kind}", 1000)


def steps(chain: Any, chord: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What follows a task by the `chain` and `chord` of its request: each task id that is frozen, and its signature."""
    return _steps([*_reversed(chain), chord], set())


def _steps(signatures: Sequence[Any], seen: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tasks with a frozen id in `signatures`, in the order in which they would run, each once: every member of a
    group may name the body of its chord, which comes after all of them."""
    chords = []
    for signature in signatures:
        if not isinstance(signature, Mapping) or not isinstance(signature.get("options"), Mapping):
            continue
        kwargs, options = signature.get("kwargs"), signature["options"]
        if signature.get("subtask_type") in _CANVASES and isinstance(kwargs, Mapping):
            for part in ("tasks", "header", "body"):
                yield from _steps(_listed(kwargs.get(part)), seen)
        elif task_id := str(options.get("task_id") or ""):
            if task_id in seen:
                continue
            seen.add(task_id)
            yield task_id, signature
        yield from _steps(_reversed(options.get("chain")), seen)
        chords.append(options.get("chord"))
    if any(chords):
        yield from _steps(chords, seen)


_CANVASES = frozenset({"chain", "group", "chord"})


def _listed(part: Any) -> Sequence[Any]:
    return [part] if isinstance(part, Mapping) else part if isinstance(part, (list, tuple)) else ()


def _reversed(chain: Any) -> Sequence[Any]:
    """Celery keeps a chain with its next step last."""
    return chain[::-1] if isinstance(chain, (list, tuple)) else ()
