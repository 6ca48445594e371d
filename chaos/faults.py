"""What is done to the processes, and when: drawn from the seed before anything begins."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

REDIS, POSTGRES = 0, 1  # the targets of the proxy


class Kind(StrEnum):
    KILL_CHILD = "kill child"
    KILL_WORKER = "kill worker"
    KILL_DRAIN = "kill drain holder"
    STOP_REDIS = "stop Redis"
    STOP_DATABASE = "stop database"
    FREEZE = "SIGSTOP"
    CUT = "cut connections"
    RESTART = "restart with a new version"


KILLS = (Kind.KILL_CHILD, Kind.KILL_WORKER, Kind.KILL_DRAIN)
A_MINUTE: Mapping[Kind, int] = {
    Kind.KILL_CHILD: 30,
    Kind.KILL_WORKER: 22,
    Kind.KILL_DRAIN: 22,
    Kind.STOP_REDIS: 3,
    Kind.STOP_DATABASE: 3,
    Kind.FREEZE: 8,
    Kind.CUT: 12,
    Kind.RESTART: 3,
}
QUIET = (0.45, 0.62)  # of each minute: nothing but children is killed, so that the reaper comes to judge
SHORTEST_SECONDS = 0.2


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """`at` and `lasts` in seconds, `draw` from 0 to 1 chooses whom it hits."""

    at: float
    kind: Kind
    draw: float
    lasts: float


class Scenario(StrEnum):
    """A: pauses stay below half of WORKER_TIMEOUT. B: they exceed it."""

    A = "A"
    B = "B"

    def pause(self, chosen: random.Random, worker_timeout: float) -> float:
        longest = worker_timeout / 3 if self is Scenario.A else worker_timeout * 1.6
        return chosen.uniform(SHORTEST_SECONDS, longest)


def plan(seed: str, seconds: float, scenario: Scenario, worker_timeout: float) -> list[Fault]:
    """All faults of a run, in their order."""
    chosen = random.Random(f"{seed} faults")
    faults = [
        Fault(_moment(chosen, kind, seconds), kind, chosen.random(), scenario.pause(chosen, worker_timeout))
        for kind, count in _counts(seconds, scenario)
        for _ in range(count)
    ]
    return sorted(faults)


def _counts(seconds: float, scenario: Scenario) -> Iterator[tuple[Kind, int]]:
    """Long pauses are fewer, or nothing would ever run."""
    for kind, count in A_MINUTE.items():
        rare = scenario is Scenario.B and kind in (Kind.STOP_REDIS, Kind.STOP_DATABASE)
        yield kind, max(1, round(count * seconds / 60 * (0.4 if rare else 1)))


def _moment(chosen: random.Random, kind: Kind, seconds: float) -> float:
    minutes = max(1, round(seconds / 60))
    minute = seconds / minutes
    share = chosen.uniform(0, 1)
    if kind is not Kind.KILL_CHILD:
        before, after = QUIET
        share *= 1 - (after - before)
        share += after - before if share > before else 0
    return (chosen.randrange(minutes) + share) * minute
