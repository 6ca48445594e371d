"""The interfaces of every journal: the one that capture writes to, and the one that the drain reads from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from ..events import Record

BATCH_BYTES = 1024 * 1024  # of entries, in one read; the last may go beyond. The drain keeps the memory of a batch


class Journal(Protocol):
    """Where capture puts events. Safe to use from any thread and process."""

    def append(self, event: Record) -> None:
        """Keeps `event`. May raise: the caller protects the user's task."""

    def append_later(self, event: Record) -> None:
        """Keeps an event of a moment ago, whoever calls now: not in the caller's transaction, nor on its time."""

    def deferring(self) -> bool:
        """True where an event appended now may still get lost: by the caller's rollback, or with this process."""

    def prepare(self) -> None:
        """Connects where that takes time, in a process that is about to run tasks, so that none of them waits."""

    def flush(self, **_signal: object) -> None:
        """Waits a moment for what is under way, in a process that ends. Never raises."""

    def claim(self, key: str, holder: str) -> str:
        """The holder of `key`: `holder` where nobody was first. Atomic across processes. Asked where a task waits:
        takes a moment at most, or raises."""

    def claim_beside(self, other: str, key: str, holder: str) -> tuple[str, str]:
        """`holder(other)` and `claim(key, holder)`, for the time of one question."""

    def claim_all(self, claims: Mapping[str, str]) -> None:
        """Claims every key of `claims` that nobody holds, for the holder beside it. For processes that may wait."""

    def holder(self, key: str) -> str:
        """Who holds `key`, "" for nobody. Asked where a task waits: takes a moment at most, or raises."""


class Entry(NamedTuple):
    """An event as a source keeps it: `key` is the source's own name for it, `data` what `codec.decode` reads,
    `position` its place in the only order there is between deliveries."""

    key: str
    data: bytes
    position: int


def is_full(entries: Sequence[Entry]) -> bool:
    """True where their bytes are enough for one read."""
    return sum(len(entry.data) for entry in entries) >= BATCH_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits in a source. `oldest_at` and `newest` (at most ten entries, the newest first) are None and empty
    where nothing waits. `dropped` counts, since the journal began, the events that it had no room for, by kind.
    `holder` names who drains it, "" for nobody; `refused` says why this installation may not drain it, "" if it may.
    """

    entries: int = 0
    size: int = 0
    limit: int = 0
    oldest_at: datetime | None = None
    newest: Sequence[Entry] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    holder: str = ""
    refused: str = ""


class Source(Protocol):
    """What the drain takes events from. One process reads it at a time, as far as that can be arranged."""

    name: str

    def hold(self) -> bool:
        """True while this process is the one that may read; asked before each batch. Raises where it is unreachable."""

    def release(self) -> None:
        """Lets another process read. Never raises."""

    def read(self, limit: int, wait: float) -> Sequence[Entry]:
        """At most `limit` entries or BATCH_BYTES, oldest first; waits up to `wait` seconds for the first. They stay
        until they are acknowledged. Raises where it is unreachable."""

    def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Removes what the last `read` returned, all of it: it has been applied, or lies in the quarantine."""

    def mark(self) -> object:
        """The end of what is there now, for `has_passed`. Raises where it is unreachable."""

    def has_passed(self, mark: Any) -> bool:
        """True once all that stood before `mark` has been acknowledged. Raises where it is unreachable."""

    def is_waiting(self) -> bool:
        """True where something is to be drained and nobody does. Raises where it is unreachable."""

    def dropped(self) -> int:
        """How many events there was no room for, since the journal began. Raises where it is unreachable."""

    def backlog(self) -> Backlog:
        """For people to see; takes no hold and changes nothing. Raises where it is unreachable."""
