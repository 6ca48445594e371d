"""The headers of ours on a message, and who a task is by them."""

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID, uuid5

PUBLICATION = "taskops_publication"
GENERATION = "taskops_generation"
NONCE = "taskops_nonce"
ATTEMPTS = "taskops_attempts"  # how many starts a requeue grants
OWNER = "taskops_owner"
PERIODIC_TASK = "taskops_periodic_task"  # the name of its entry in beat's schedule
REQUEUED_FROM = "taskops_requeued_from"
JOINED = "taskops_joined"  # ids of the groups whose chords this app joins, and not Celery
OUTLIVES = "taskops_outlives_revoke"  # Celery itself has revoked the id, when it gave the chord up
DESCRIBE = "taskops_describe"  # the publisher's word may get lost: the worker describes the call as well
DELIVERY = "taskops_delivery"  # never on the wire: stamped into the request where a worker receives it

CARRIED = (PUBLICATION, GENERATION, NONCE, ATTEMPTS, OWNER, PERIODIC_TASK, REQUEUED_FROM, JOINED, OUTLIVES)


def new_publication() -> str:
    """32 hexadecimal digits that sort by the time of their making."""
    return f"{time.time_ns() // 1000:016x}{secrets.token_hex(8)}"


def stamp(headers: MutableMapping[str, Any], running: Any) -> None:
    """Gives a message its publication: that of `running`, the request of the task that publishes, where it publishes
    itself again (a retry, or Celery's `replace`, which drops custom headers); else a new one."""
    carried = {name: headers[name] for name in (OWNER,) if name in headers}
    task_ids, sending = _sending.get()
    if str(headers["id"]) in task_ids:
        carried |= sending
    elif running is not None and running.id == headers["id"] and _goes_on(headers, running):
        carried |= {name: getattr(running, name) for name in CARRIED if getattr(running, name, None) is not None}
    else:
        carried[PUBLICATION] = new_publication()
    for name in (*CARRIED, DESCRIBE, DELIVERY):  # Celery sends all headers of a message along with its retry
        headers.pop(name, None)
    headers.update(carried)


@contextmanager
def sent_as(publication: str, task_ids: Iterable[str], **more: Any) -> Iterator[None]:
    """What is published inside of these tasks belongs to this publication, and is one send of it: of several sends of
    one message a worker starts one. It has `more` headers. A receiver of the project's may publish others meanwhile."""
    token = _sending.set((frozenset(task_ids), {PUBLICATION: publication, NONCE: new_publication(), **more}))
    try:
        yield
    finally:
        _sending.reset(token)


_nothing: tuple[frozenset[str], Mapping[str, Any]] = (frozenset(), {})
_sending: ContextVar[tuple[frozenset[str], Mapping[str, Any]]] = ContextVar("taskops_sending", default=_nothing)


def joined(headers: Mapping[str, Any]) -> frozenset[str]:
    """The groups whose chords this app joins."""
    named = headers.get(JOINED)
    return frozenset(map(str, named)) if isinstance(named, (list, tuple)) else frozenset()


def _goes_on(headers: Mapping[str, Any], running: Any) -> bool:
    """A retry and a replacement count up; a task that publishes its own id anew, to poll say, does not."""
    retries, nesting = (count(headers.get(name)) or 0 for name in ("retries", "replaced_task_nesting"))
    return retries > (running.retries or 0) or nesting > (getattr(running, "replaced_task_nesting", None) or 0)


def discarded(task_id: object, headers: Mapping[str, Any]) -> str:
    """The delivery of a message that a worker discards on arrival: the same each time, for it may come again."""
    return str(uuid5(_NAMESPACE, "/".join(map(str, (task_id, *identity(headers).values())))))


def superseded(task_id: str, publication: str, generation: int) -> str:
    """The key that is held in the journal where messages of this generation, should they come again, must not run. ""
    where the publisher has not this app: then a message of today looks like one of yesterday under the same id."""
    if not publication:
        return ""
    return f"superseded:{uuid5(_NAMESPACE, f'{task_id}/{publication}/{generation}')}"


def sent(task_id: str, publication: str, generation: int, retries: int) -> str:
    """The key under which the first message of this attempt leaves its nonce: of several sends of one requeue, the one
    that starts first."""
    return f"sent:{uuid5(_NAMESPACE, f'{task_id}/{publication}/{generation}/{retries}')}"


_NAMESPACE = UUID("5b8a4a6e-2a53-4b0e-8a7e-6f1f0f4f9d10")


def sent_at(headers: Mapping[str, Any]) -> float | None:
    """Seconds since the epoch of the publish, or of the last requeue; None where the publisher has not this app."""
    stamped = headers.get(NONCE) or headers.get(PUBLICATION)
    try:
        return int(stamped[:16], 16) / 1e6 if stamped else None
    except (TypeError, ValueError):
        return None


def identity(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Who a message is: the fields of an event that say so."""
    return {
        "publication": str(headers.get(PUBLICATION) or "")[:32],
        "generation": count(headers.get(GENERATION)) or 0,
        "nesting": min(count(headers.get("replaced_task_nesting")) or 0, 2**15 - 1),
        "retries": count(headers.get("retries")) or 0,
    }


def count(value: object) -> int | None:
    """`value` where it is a count that a column holds, else None: a header may be anything."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None
