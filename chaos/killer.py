"""Carries out the faults, one after the other, in the driver's main thread, and writes each into the ledger.

The line of a kill is written before its signal is sent: what a task did before that line it did before it died.
"""

import heapq
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from chaos import ledger
from chaos.faults import POSTGRES, REDIS, Fault, Kind
from chaos.fleet import Fleet, Worker, lives
from chaos.ledger import Line, What
from chaos.stage import Stage

SECONDS_UNTIL_ANOTHER_TRY = 0.3
REDIS_SHARE = 0.6  # of the connections that are cut, and of the servers that are frozen


@dataclass(order=True, slots=True)
class _Due:
    at: float
    number: int
    act: Callable[[], None] = field(compare=False)


class Killer:
    """`tend` has to be called often. `done` counts what was done, by kind."""

    def __init__(self, stage: Stage, fleet: Fleet, faults: list[Fault]) -> None:
        self.done: Counter[Kind] = Counter()
        self._stage = stage
        self._fleet = fleet
        self._due: list[_Due] = []
        self._number = 0
        self._down: set[str] = set()
        self._killed: set[int] = set()
        self._faults = faults

    def begin(self) -> None:
        begin = time.monotonic()
        for fault in self._faults:
            self._at(begin + fault.at, lambda fault=fault: self._try(fault))  # type: ignore[misc]

    @property
    def idle(self) -> bool:
        return not self._due

    def tend(self) -> None:
        while self._due and self._due[0].at <= time.monotonic():
            heapq.heappop(self._due).act()

    def _at(self, moment: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._due, _Due(moment, self._number, act))

    def _try(self, fault: Fault) -> None:
        """A fault that finds no victim is tried again."""
        if self._deeds[fault.kind](self, fault):
            self.done[fault.kind] += 1
        else:
            self._at(time.monotonic() + SECONDS_UNTIL_ANOTHER_TRY, lambda: self._try(fault))

    def _kill_child(self, fault: Fault) -> bool:
        return self._kill(fault, self._chosen(fault, [pid for each in self._fleet.ready() for pid in each.children()]))

    def _kill_drain(self, fault: Fault) -> bool:
        return self._kill(fault, self._chosen(fault, list(self._fleet.drains())))

    def _kill(self, fault: Fault, pid: int | None) -> bool:
        if pid is None:
            return False
        _tell(What.FAULT, fault, pids=[pid])
        self._killed.add(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def _kill_worker(self, fault: Fault) -> bool:
        """With its pool, as when a container is killed; every other time its drain stays behind, and ends by itself."""
        worker = self._worker(fault)
        if worker is None:
            return False
        drains = worker.drains() if fault.draw * 1000 % 2 < 1 else []
        _tell(What.FAULT, fault, pids=[worker.pid, *worker.children(), *drains], main=worker.pid, log=worker.log)
        self._killed.add(worker.pid)
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        for pid in drains:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return True

    def _stop_redis(self, fault: Fault) -> bool:
        """By SIGKILL."""
        return self._stop(fault, "redis", self._stage.redis.stop, self._stage.start_redis)

    def _stop_database(self, fault: Fault) -> bool:
        return self._stop(fault, "postgres", self._stage.postgres.stop, self._stage.postgres.start)

    def _stop(self, fault: Fault, server: str, stop: Callable[[], None], start: Callable[[], None]) -> bool:
        if server in self._down:
            return False
        self._down.add(server)
        _tell(What.FAULT, fault, server=server)
        stop()

        def mend() -> None:
            start()
            self._down.discard(server)
            _tell(What.MENDED, fault, server=server)

        self._at(time.monotonic() + fault.lasts, mend)
        return True

    def _freeze(self, fault: Fault) -> bool:
        """A worker with its pool, one child, a drain, or Redis itself."""
        whom = int(fault.draw * 4)
        if whom == 0:
            return self._freeze_redis(fault)
        if whom == 1:
            worker = self._worker(fault)
            pids = [worker.pid, *worker.children()] if worker else []
        else:
            everybody = [pid for each in self._fleet.ready() for pid in (each.children() if whom == 2 else [each.pid])]
            pids = [pid for pid in (self._chosen(fault, everybody),) if pid]
        if not pids:
            return False
        _tell(What.FAULT, fault, pids=pids)
        _signal(pids, signal.SIGSTOP)

        def mend() -> None:
            _signal(pids, signal.SIGCONT)
            _tell(What.MENDED, fault, pids=pids)

        self._at(time.monotonic() + fault.lasts, mend)
        return True

    def _freeze_redis(self, fault: Fault) -> bool:
        redis = self._stage.redis
        return self._stop(fault, "redis", redis.pause, redis.resume)

    def _cut(self, fault: Fault) -> bool:
        target = REDIS if fault.draw < REDIS_SHARE else POSTGRES
        _tell(What.FAULT, fault, target=target)
        self._stage.cut(target)
        return True

    def _restart(self, fault: Fault) -> bool:
        worker = self._worker(fault)
        if worker is None:
            return False
        _tell(What.FAULT, fault, main=worker.pid, stops=[worker.pid, *worker.children()], log=worker.log)
        self._fleet.restart(worker)
        return True

    def _worker(self, fault: Fault) -> Worker | None:
        ready = [worker for worker in self._fleet.ready() if worker.pid not in self._killed]
        return ready[int(fault.draw * len(ready))] if ready else None

    def _chosen(self, fault: Fault, pids: list[int]) -> int | None:
        alive = [pid for pid in pids if lives(pid) and pid not in self._killed]
        return alive[int(fault.draw * len(alive))] if alive else None

    _deeds = {
        Kind.KILL_CHILD: _kill_child,
        Kind.KILL_WORKER: _kill_worker,
        Kind.KILL_DRAIN: _kill_drain,
        Kind.STOP_REDIS: _stop_redis,
        Kind.STOP_DATABASE: _stop_database,
        Kind.FREEZE: _freeze,
        Kind.CUT: _cut,
        Kind.RESTART: _restart,
    }


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _tell(what: What, fault: Fault, **detail: object) -> None:
    ledger.append(Line(what=what, detail={"kind": fault.kind, "lasts": round(fault.lasts, 3), **detail}))
