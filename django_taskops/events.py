"""What capture saw, as immutable values made of plain types. Pure: imports nothing of ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, TypeAlias

JSON = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None


class EventKind(StrEnum):
    """One observation. From RECEIVED on, the order is the precedence of the verdict: a later kind outweighs an
    earlier one that was said of the same delivery, whichever came first. Append-only: stored as `verdict`."""

    PUBLISHED = "published"
    PROGRESS = "progress"
    RECEIVED = "received"
    STARTED = "started"
    ABANDONED = "abandoned"  # its worker is gone, and the broker, which still has the message, delivers it again
    END_LOST = "end_lost"  # its worker lives and does not run it any more, and nobody has told how it ended
    UNDELIVERED = "undelivered"  # of a send that no worker has received, and that the broker does not have
    BROKE = "broke"  # the worker's main process or Celery itself reports an error that the body did not raise
    WORKER_LOST = "worker_lost"
    SUCCESS_STORED = "success_stored"  # its process is lost, and the result backend has a success under its id
    RETURNED = "returned"  # its body has; Celery is not done with it, and may never be
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
    names the queue that a notice of the death goes to, "" for none. `parked` where Celery has not been told."""

    reason: str = ""
    exception_type: str = ""
    exception_message: str = ""
    traceback: str = ""
    frames: tuple[str, ...] = ()  # "module:qualname", outermost first
    result: JSON = None
    retry_at: datetime | None = None
    dead_letter: bool = True
    dead_letter_queue: str = ""
    parked: bool = False


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
    cause_generation: int = 0  # of UPSTREAM_FAILED: the generation of what stands before, which the call's parent names
    call: Call | None = None
    executor: Executor | None = None
    outcome: Outcome | None = None
    progress: Mapping[str, Any] | None = None

    @property
    def subject(self) -> str:
        """What it is about, for logs."""
        return self.task_id


class Held(NamedTuple):
    """A delivery in a worker's hands."""

    delivery: str
    task_id: str
    task_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a worker's main process says of itself, every `seconds`, from its boot until its end.

    `number` counts from 1. `tasks` are the names it has registered, None where it has said them before. `running` and
    `reserved` name at most `MAX_HELD` deliveries together, of `held`. `lag_seconds` is for how long the oldest event
    has waited in the spool of its host. `at` and `started_at` are its host's clock.
    """

    kind: ClassVar[str] = "beat"

    boot_id: str
    number: int
    at: datetime
    started_at: datetime
    seconds: float
    worker: str = ""
    host: str = ""
    pid: int | None = None
    pool: str = ""
    concurrency: int | None = None
    version: str = ""
    queues: tuple[str, ...] = ()
    tasks: tuple[str, ...] | None = None
    running: tuple[Held, ...] = ()
    reserved: tuple[Held, ...] = ()
    held: int = 0
    lag_seconds: float = 0.0
    stopped: bool = False

    @property
    def subject(self) -> str:
        """What it is about, for logs."""
        return self.worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Chord:
    """A chord that has been published. `members` are the task ids of its header in order, those of chains being the
    ids of their last steps; a tuple among them is a group that ends a member. `body` is the name of its body's task,
    `body_id` the id of the last task of its body."""

    kind: ClassVar[str] = "chord"

    group_id: str
    members: tuple[Any, ...]
    at: datetime
    body: str = ""
    body_id: str = ""

    @property
    def subject(self) -> str:
        """What it is about, for logs."""
        return self.group_id

    @property
    def task_id(self) -> str:
        return self.group_id

    @property
    def task_name(self) -> str:
        return self.body


Record: TypeAlias = Event | Beat | Chord
"""What a journal keeps."""
