"""What capture saw, as immutable values made of plain types. Pure: imports nothing of ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

JSON = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None


class EventKind(StrEnum):
    """One observation. From RECEIVED on, the order is the precedence of the verdict: a later kind outweighs an
    earlier one that was said of the same delivery, whichever came first. Append-only: stored as `verdict`."""

    PUBLISHED = "published"
    PROGRESS = "progress"
    RECEIVED = "received"
    STARTED = "started"
    BROKE = "broke"  # the worker's main process or Celery itself reports an error that the body did not raise
    WORKER_LOST = "worker_lost"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    IGNORED = "ignored"
    RETRIED = "retried"
    REVOKED = "revoked"
    SUCCEEDED = "succeeded"
    UNSERIALIZABLE = "unserializable"
    UNKNOWN_TASK = "unknown_task"
    UNDECODABLE = "undecodable"
    UPSTREAM_FAILED = "upstream_failed"  # of a task that was never published, since one before it has failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What was asked for, as its publisher or the message says it. Arguments are redacted JSON, for display."""

    queue: str = ""
    priority: int | None = None
    args: JSON = None
    kwargs: JSON = None
    eta: datetime | None = None
    expires: datetime | None = None
    parent_id: str = ""
    root_id: str = ""
    group_id: str = ""
    group_index: int | None = None
    periodic_task: str = ""
    owner: str = ""
    trace_id: str = ""
    requeued_from: str = ""
    envelope: bytes | None = None
    envelope_error: str = ""  # why there is no envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """The worker that holds a delivery. `pid` is the process that runs the task, None where only main has spoken."""

    worker: str = ""
    boot_id: str = ""
    pid: int | None = None
    version: str = ""
    acks_late: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a delivery ended. `dead_letter` is False where the task declares that nobody has to act; `dead_letter_queue`
    names the queue that a notice of the death goes to, "" for none."""

    reason: str = ""
    exception_type: str = ""
    exception_message: str = ""
    traceback: str = ""
    frames: tuple[str, ...] = ()  # "module:qualname", outermost first
    result: JSON = None
    retry_at: datetime | None = None
    dead_letter: bool = True
    dead_letter_queue: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One observation about one task. `delivery` is "" for what happens at the publisher, `nesting` counts Celery's
    `replace` (each starts again at retries 0 under the same id).

    `position` is the place of the event in its journal, the only order there is between deliveries; 0 where the
    journal keeps no order of its own: then the order in which the events are applied counts. `at` is the clock of the
    host that saw it: for display, never compared across hosts.
    """

    kind: EventKind
    task_id: str
    task_name: str
    at: datetime
    publication: str = ""
    generation: int = 0
    nesting: int = 0
    retries: int = 0
    delivery: str = ""
    position: int = 0
    call: Call | None = None
    executor: Executor | None = None
    outcome: Outcome | None = None
    progress: Mapping[str, Any] | None = None
