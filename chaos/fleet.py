"""The workers: each slot has one, started again at once whenever it is gone."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.stage import Stage

if TYPE_CHECKING:
    import subprocess

DRAIN = "taskops_drain"
CONCURRENCY = 2
POLL_SECONDS = 0.05
READY = b"ready."


@dataclass(slots=True)
class Worker:
    """One boot of a worker."""

    slot: int
    number: int
    log: str
    pid: int
    version: str
    leaving: bool = False
    was_ready: bool = False
    seen: list[int] = field(default_factory=list)  # the processes of its pool, when it was looked at last

    @property
    def gone(self) -> bool:
        return not lives(self.pid)

    @property
    def ready(self) -> bool:
        """It consumes, or has. Asked of its log until it is."""
        if not self.was_ready:
            self.was_ready = READY in Path(self.log).read_bytes()
        return self.was_ready and not (self.gone or self.leaving)

    def children(self) -> list[int]:
        """The processes of its pool."""
        self.seen = [pid for pid in _children_of(self.pid) if DRAIN not in _command_of(pid)]
        return self.seen

    def drains(self) -> list[int]:
        return [pid for pid in _children_of(self.pid) if DRAIN in _command_of(pid)]


@dataclass(slots=True)
class Fleet:
    """`tend` has to be called often. Slots with an odd number reach the servers through the proxy."""

    stage: Stage
    size: int
    version: int = 1
    boots: int = 0
    workers: list[Worker] = field(default_factory=list)
    nurseries: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def tend(self) -> None:
        """Starts what is missing."""
        self.workers = [worker for worker in self.workers if not worker.gone]
        held = {worker.slot for worker in self.workers if not worker.leaving}
        for slot in set(range(self.size)) - held:
            self.workers.append(self._start(slot))

    def ready(self) -> list[Worker]:
        """Those that consume."""
        return [worker for worker in self.workers if worker.ready and worker.children()]

    def drains(self) -> Iterator[int]:
        for worker in self.workers:
            yield from worker.drains()

    def restart(self, worker: Worker) -> None:
        """Warm, while its successor of a new version starts beside it, as in a rolling deploy."""
        self.version += 1
        worker.leaving = True
        os.kill(worker.pid, signal.SIGTERM)

    def stop(self, seconds: float) -> None:
        """Warm; SIGKILL for those that take longer."""
        for worker in self.workers:
            if not worker.gone and not worker.leaving:
                os.kill(worker.pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not all(worker.gone for worker in self.workers):
            time.sleep(POLL_SECONDS)
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)

    def _start(self, slot: int) -> Worker:
        self.boots += 1
        log, version = str(self.stage.folder / f"worker-{slot}-{self.boots}.log"), f"v{self.version}"
        Path(log).touch()
        arguments = ["worker", "-n", f"w{slot}@chaos", "--loglevel", "INFO", "--concurrency", str(CONCURRENCY)]
        arguments += ["--without-mingle", "--without-gossip"]
        order: dict[str, object] = {"log": log, "arguments": arguments, "environment": {"TASKOPS_VERSION": version}}
        return Worker(slot, self.boots, log, self._bear(slot % 2, order), version)

    def _bear(self, kind: int, order: dict[str, object]) -> int:
        """Workers of one kind reach the servers in the same way."""
        if kind not in self.nurseries:
            log = f"nursery-{kind}.log"
            self.nurseries[kind] = self.stage.start(log, "-m", "chaos.nursery", proxied=bool(kind), talks=True)
        nursery = self.nurseries[kind]
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        nursery.stdin.write(f"{json.dumps(order)}\n".encode())
        nursery.stdin.flush()
        return int(nursery.stdout.readline())


def lives(pid: int) -> bool:
    """Not as a zombie, which a process that has just been killed is for a moment."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _children_of(pid: int) -> list[int]:
    """Asked of the kernel, which knows: to look through all processes would cost too much."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] + _of_threads(pid)
    except OSError:  # it ends just now
        return []


def _of_threads(pid: int) -> list[int]:
    """Those that another thread than the first one has started, as the drain is."""
    threads = [thread for thread in Path(f"/proc/{pid}/task").iterdir() if thread.name != str(pid)]
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
