"""Who has fallen silent, by beats that were applied while this process looked on. No clock of any host is asked.

What is late in the journal, because the database or Redis was away, is late for everybody: the beats of the process
that looks on travel the same way. While they don't come through, nobody is held to be silent.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ...models import WorkerBeat

UNHEARD = -1


@dataclass(slots=True)
class _Heard:
    number: int
    at: float  # of this process's clock


class Watch:
    """`timeout` in seconds. `own` is the boot id of the process that looks on, whose beats prove that beats come
    through."""

    def __init__(self, own: str, timeout: float) -> None:
        self._own = own
        self._timeout = timeout
        self._heard: dict[str, _Heard] = {}
        self._named: frozenset[str] = frozenset()
        self._looked = 0.0
        self._since: float | None = None

    def look(self, beats: Iterable[WorkerBeat], now: float) -> None:
        """Takes in the rows as they are at `now`, seconds of a clock that never goes back."""
        rows = {row.boot_id: row.number for row in beats}
        own = self._heard.get(self._own)
        came = self._own in rows and (own is None or rows[self._own] != own.number)
        gap = self._timeout / 2
        if own is not None and (now - self._looked > gap or (not came and now - own.at > gap)):
            self._start_again()
        self._looked = now
        for boot_id, number in rows.items():
            if (heard := self._heard.get(boot_id)) is None or heard.number != number:
                self._heard[boot_id] = _Heard(number, now)
        for boot_id in self._heard.keys() - rows.keys() - self._named:
            del self._heard[boot_id]
        if self._since is None and came:
            self._since = now

    def name(self, boot_ids: Iterable[str]) -> None:
        """Tells of boots that others have named, as of the last look. Those of which no row is known are silent since
        they were named first: a worker may have started a task before its first beat comes through."""
        self._named = frozenset(boot_ids)
        for boot_id in self._named - self._heard.keys():
            self._heard[boot_id] = _Heard(UNHEARD, self._looked)

    @property
    def trusted(self) -> bool:
        """True once beats have come through for as long as somebody has to be silent to be held lost."""
        return self._since is not None and self._looked - self._since >= self._timeout

    def silence(self, boot_id: str) -> float:
        """For how many seconds nothing has been heard of it, as far as is known: less than is true after a start."""
        heard = self._heard.get(boot_id)
        if self._since is None or heard is None:
            return 0.0
        return self._looked - max(self._since, heard.at)

    def is_silent(self, boot_id: str) -> bool:
        return self.trusted and self.silence(boot_id) >= self._timeout

    def silent(self) -> frozenset[str]:
        """All that are."""
        return frozenset(boot for boot in self._heard if self.is_silent(boot))

    def _start_again(self) -> None:
        """What was heard so far is no evidence any more; the numbers are kept, to see who goes on."""
        self._since = None
        for heard in self._heard.values():
            heard.at = self._looked
