"""The fold of one delivery: what is known of it is the weightiest thing that was said of it.

Pure. The rank of a kind of observation is its place in `EventKind`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

from ..events import JSON, Event, EventKind, Outcome
from ..states import FINISHED, DeadLetterReason, QuietReason, TaskState

PRECEDENCE: Mapping[str, int] = {"": -1} | {kind: rank for rank, kind in enumerate(EventKind)}

STATES: Mapping[EventKind, TaskState] = {
    EventKind.RECEIVED: TaskState.RECEIVED,
    EventKind.STARTED: TaskState.STARTED,
    EventKind.ABANDONED: TaskState.RETRY,
    EventKind.END_LOST: TaskState.FAILURE,
    EventKind.UNDELIVERED: TaskState.FAILURE,
    EventKind.BROKE: TaskState.FAILURE,
    EventKind.WORKER_LOST: TaskState.FAILURE,
    EventKind.SUCCESS_STORED: TaskState.SUCCESS,
    EventKind.RETURNED: TaskState.SUCCESS,
    EventKind.FAILED: TaskState.FAILURE,
    EventKind.TIMED_OUT: TaskState.FAILURE,
    EventKind.CANCELLED: TaskState.FAILURE,
    EventKind.REJECTED: TaskState.REJECTED,
    EventKind.IGNORED: TaskState.IGNORED,
    EventKind.RETRIED: TaskState.RETRY,
    EventKind.REVOKED: TaskState.REVOKED,
    EventKind.SUCCEEDED: TaskState.SUCCESS,
    EventKind.UNSERIALIZABLE: TaskState.FAILURE,
    EventKind.UNKNOWN_TASK: TaskState.FAILURE,
    EventKind.UNDECODABLE: TaskState.FAILURE,
    EventKind.UPSTREAM_FAILED: TaskState.FAILURE,
}

REASONS: Mapping[EventKind, str] = {
    EventKind.END_LOST: DeadLetterReason.END_LOST,
    EventKind.UNDELIVERED: DeadLetterReason.UNDELIVERED,
    EventKind.BROKE: DeadLetterReason.FAILED,
    EventKind.WORKER_LOST: DeadLetterReason.WORKER_LOST,
    EventKind.FAILED: DeadLetterReason.FAILED,
    EventKind.TIMED_OUT: DeadLetterReason.TIME_LIMIT,
    EventKind.CANCELLED: DeadLetterReason.CANCELLED,
    EventKind.REJECTED: DeadLetterReason.REJECTED,
    EventKind.REVOKED: QuietReason.REVOKED,
    EventKind.UNSERIALIZABLE: DeadLetterReason.UNSERIALIZABLE_RESULT,
    EventKind.UNKNOWN_TASK: DeadLetterReason.UNKNOWN_TASK,
    EventKind.UNDECODABLE: DeadLetterReason.UNDECODABLE,
    EventKind.UPSTREAM_FAILED: QuietReason.UPSTREAM_FAILED,
}

_DEADLY = frozenset(DeadLetterReason.values)

Epoch: TypeAlias = tuple[str, int]
"""(publication, generation): what one dead letter stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What is known of one delivery. `delivery` is "" for a run that no worker has received. `parked` is None where no
    event says it: a stored delivery does not remember, its letter does."""

    delivery: str = ""
    publication: str = ""
    generation: int = 0
    nesting: int = 0
    retries: int = 0
    seen: int = 0
    verdict: str = ""
    state: str = TaskState.PENDING
    reason: str = ""
    received_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    retry_at: datetime | None = None
    worker: str = ""
    boot_id: str = ""
    pid: int | None = None
    acks_late: bool | None = None
    version: str = ""
    progress: Mapping[str, Any] | None = None
    exception_type: str = ""
    exception_message: str = ""
    traceback: str = ""
    frames: tuple[str, ...] = ()
    result: JSON = None
    dead_letter_queue: str = ""
    parked: bool | None = None

    @property
    def epoch(self) -> Epoch:
        return (self.publication, self.generation)

    @property
    def dead(self) -> bool:
        return self.state in FINISHED and self.reason in _DEADLY

    @property
    def needs_attempt(self) -> bool:
        """False while it waits or runs and after it succeeded: then the run's row says it all."""
        ended = PRECEDENCE[self.verdict] > PRECEDENCE[EventKind.STARTED]
        return ended and self.state != TaskState.SUCCESS and not self.never_sent

    @property
    def counts(self) -> bool:
        """False for what was not a delivery of its own: nothing was sent, or what was sent again has been refused."""
        return not self.never_sent and self.reason != QuietReason.DUPLICATE

    @property
    def never_sent(self) -> bool:
        """True where nothing was delivered: it stands for what a canvas will not do."""
        return self.verdict == EventKind.UPSTREAM_FAILED


def begin(event: Event, known: Iterable[Delivery]) -> Delivery:
    """A delivery that `event` is the first word of, seen after all `known` ones where the journal does not say."""
    return Delivery(
        delivery=event.delivery,
        publication=event.publication,
        generation=event.generation,
        nesting=event.nesting,
        retries=event.retries,
        seen=event.position or 1 + max((delivery.seen for delivery in known), default=0),
    )


def observe(delivery: Delivery, *events: Event) -> Delivery:
    """`delivery` with more observations: commutative, associative, idempotent."""
    facts = {name: getattr(delivery, name) for name in _OBSERVED}
    for event in events:
        _notice(event, facts)
        if event.kind in STATES and _outweighs(event, facts):
            facts |= _verdict(event)
    return replace(delivery, **facts)


def _notice(event: Event, facts: dict[str, Any]) -> None:
    """What an event says beside its verdict."""
    if event.position:
        facts["seen"] = min(facts["seen"] or event.position, event.position)
    if instant := _INSTANTS.get(event.kind):
        facts[instant] = min(facts[instant] or event.at, event.at)
    for name in _EXECUTOR if event.executor else ():
        if facts[name] in ("", None):
            facts[name] = getattr(event.executor, name)
    if event.progress and event.progress["at"] > (facts["progress"] or {}).get("at", ""):
        facts["progress"] = event.progress


_INSTANTS = {EventKind.RECEIVED: "received_at", EventKind.STARTED: "started_at"}
_EXECUTOR = ("worker", "boot_id", "pid", "acks_late", "version")
_OBSERVED = ("seen", "received_at", "started_at", "finished_at", "progress", "verdict", *_EXECUTOR)


def _verdict(event: Event) -> dict[str, Any]:
    outcome = event.outcome or _NO_OUTCOME
    state = STATES[event.kind]
    if event.kind is EventKind.RECEIVED and event.retries:
        state = TaskState.RETRY  # in a worker's hands, and still waiting for its time
    return {
        "verdict": event.kind,
        "state": state,
        "reason": outcome.reason or REASONS.get(event.kind, ""),
        "finished_at": event.at if PRECEDENCE[event.kind] > PRECEDENCE[EventKind.STARTED] else None,
        "retry_at": outcome.retry_at,
        "exception_type": outcome.exception_type,
        "exception_message": outcome.exception_message,
        "traceback": outcome.traceback,
        "frames": outcome.frames,
        "result": outcome.result,
        "dead_letter_queue": outcome.dead_letter_queue,
        "parked": outcome.parked,
    }


_NO_OUTCOME = Outcome()


def _outweighs(event: Event, facts: Mapping[str, Any]) -> bool:
    if event.kind == facts["verdict"] and facts["finished_at"]:
        return bool(event.at < facts["finished_at"])  # said twice: the first telling stays
    return outweighs(event.kind, facts["verdict"])


def outweighs(kind: EventKind, verdict: str) -> bool:
    return PRECEDENCE[kind] > PRECEDENCE[verdict]
