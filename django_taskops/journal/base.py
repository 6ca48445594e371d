"""The interface of every journal."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from ..events import Event


class Entry(NamedTuple):
    """An event as the journal keeps it. `key` is the journal's own name for it."""

    key: str
    event: Event


class Journal(Protocol):
    """Where capture puts events and projection takes them from. Safe to use from any thread and process."""

    def append(self, event: Event) -> None:
        """Keeps `event`. May raise: the caller protects the user's task."""

    def deferring(self) -> bool:
        """True where an event appended now may still get lost: by the caller's rollback, or with this process."""

    def read(self, limit: int) -> Sequence[Entry]:
        """At most `limit` entries that wait, oldest first. They stay until they are acknowledged."""

    def acknowledge(self, keys: Iterable[str]) -> None:
        """Removes entries that have been applied. Unknown keys are no error."""

    def claim(self, key: str, holder: str) -> str:
        """The holder of `key`: `holder` where nobody was first. Atomic across processes, for ever."""
