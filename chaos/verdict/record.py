"""The ledger, put in order for the rules."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chaos.faults import REDIS
from chaos.ledger import Line, What

ENDS = (What.END, What.RAISED, What.RETRIED)
UNHEARD_NS = 300_000_000  # until a process has heard, in vain, what Redis says to its last event
CERTAIN_NS = 100_000_000  # what stands in the file for longer than this before a kill was done before it
Attempt = tuple[str, str, int, int]  # task id, publication, generation, retries


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`deaths` are the kills of each process, `stops` the spans in which it was frozen."""

    starts: Mapping[str, Line]  # by delivery
    ends: Mapping[str, Line]
    called: frozenset[str]
    refused: frozenset[str]
    puts: Sequence[Line]
    lost_puts: Sequence[Line]
    ours: Sequence[Line]
    decided: Sequence[Line]
    outages: Sequence[int] = ()  # when connections to Redis were lost
    deaths: Mapping[int, Sequence[int]] = field(default_factory=dict)
    stops: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    goodbyes: frozenset[int] = frozenset()  # workers that have ended, whatever has ended them
    offset: float = 0.0  # what makes a wall clock of the ledger's, in seconds
    failed_hooks: Sequence[str] = ()

    def certain(self, line: Line) -> bool:
        """True where the process that wrote `line` lived on for long enough to say so elsewhere."""
        death = self.death_after(line)
        if death is None:
            return True
        return self.awake(line.pid, line.at, death) > CERTAIN_NS and not self.fell_with_redis(line)

    def awake(self, pid: int, begin: float, end: float) -> float:
        """For how much of that time, in ns, the process was not frozen, nor about to be."""
        stops = [(frozen - CERTAIN_NS, thawed) for frozen, thawed in self.stops.get(pid, ())]
        return end - begin - sum(max(0.0, min(thawed, end) - max(frozen, begin)) for frozen, thawed in stops)

    def fell_with_redis(self, line: Line) -> bool:
        """True where the Redis that had just been told died, and the process before it learned of that. The one thing
        that docs/reliability.md says may be lost here; the report counts them."""
        death = self.death_after(line)
        if death is None or death - line.at > UNHEARD_NS:
            return False
        return any(line.at - CERTAIN_NS <= at <= death for at in self.outages)

    def had_ended(self, end: Line) -> bool:
        """True where nobody may call it lost: its body has ended for certain, and what Celery does then is done. A step
        whose next one was not sent has not ended, nor has an attempt whose retry was not."""
        if not self.certain(end):
            return False
        if end.what is What.RAISED and not end.detail.get("final", True):
            following = (*end.epoch, end.retries + 1)
            return self._certain_of([put for put in self.puts if attempt_of(put) == following and put.pid == end.pid])
        start = self.starts.get(end.delivery)
        follower = start.detail.get("follows", "") if start and end.what is What.END else ""
        if follower:
            return self._certain_of(
                [put for put in self.puts if put.task_id == follower and put.pid == end.pid and put.at > end.at]
            )
        return self.certain(end)

    def _certain_of(self, puts: Sequence[Line]) -> bool:
        return any(self.certain(put) for put in puts)

    def death_after(self, line: Line) -> int | None:
        """When the process that wrote `line` was killed, as far as is known: its kill is written down a moment before,
        in which it may still write."""
        killed = self.deaths.get(line.pid)
        return max(killed[0], line.at) if killed else None

    def could_not_send(self, line: Line) -> bool:
        """True where the process that wrote `line` had a message refused after it, before it began another task."""
        after = [put.at for put in self.lost_puts if put.pid == line.pid and put.at >= line.at]
        begun = [start.at for start in self.starts.values() if start.pid == line.pid and start.at > line.at]
        return bool(after) and min(after) < min(begun, default=min(after) + 1)

    def ns_of(self, instant: datetime) -> float:
        """The ledger's time of a wall clock's."""
        return (instant.timestamp() - self.offset) * 1e9

    def attempts(self) -> dict[Attempt, list[Line]]:
        """The starts of each, which ought to be one unless the broker delivered it again."""
        found: dict[Attempt, list[Line]] = defaultdict(list)
        for start in self.starts.values():
            found[attempt_of(start)].append(start)
        return found


def attempt_of(line: Line) -> Attempt:
    return (*line.epoch, line.retries)


def record(lines: Iterable[Line], failed_hooks: Sequence[str] = ()) -> Record:
    by_kind: dict[What, list[Line]] = defaultdict(list)
    for line in lines:
        by_kind[line.what].append(line)
    clock = by_kind[What.CLOCK]
    return Record(
        starts={line.delivery: line for line in by_kind[What.START]},
        ends={line.delivery: line for kind in ENDS for line in by_kind[kind]},
        called=frozenset(line.task_id for line in by_kind[What.CALLED]),
        refused=frozenset(line.task_id for line in by_kind[What.REFUSED]),
        puts=by_kind[What.PUT],
        lost_puts=by_kind[What.PUT_FAILED],
        ours=by_kind[What.OURS],
        decided=by_kind[What.DECIDED],
        outages=[line.at for line in by_kind[What.FAULT] if _is_outage(line.detail)],
        deaths=_deaths(by_kind[What.FAULT]),
        stops=_stops(by_kind[What.FAULT], by_kind[What.MENDED]),
        goodbyes=frozenset(line.detail["main"] for line in by_kind[What.GONE]),
        offset=clock[0].detail["wall"] - clock[0].at / 1e9 if clock else 0.0,
        failed_hooks=failed_hooks,
    )


def _is_outage(detail: Mapping[str, Any]) -> bool:
    return detail.get("server") == "redis" or detail.get("target") == REDIS


def _deaths(faults: Iterable[Line]) -> dict[int, list[int]]:
    deaths: dict[int, list[int]] = defaultdict(list)
    for fault in faults:
        if str(fault.detail.get("kind")).startswith("kill"):
            for pid in fault.detail.get("pids", ()):
                deaths[pid].append(fault.at)
    return deaths


def _stops(faults: Iterable[Line], mended: Sequence[Line]) -> dict[int, list[tuple[int, int]]]:
    stops: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for fault in faults:
        if fault.detail["kind"] == "SIGSTOP":
            pids = fault.detail.get("pids", ())
            ends = [line.at for line in mended if line.at > fault.at and line.detail.get("pids") == pids]
            for pid in pids:
                stops[pid].append((fault.at, min(ends, default=fault.at)))
    return stops
