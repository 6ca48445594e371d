"""What each process of a worker has for itself (USS) after 1,000 tasks, and after a hundred times as many."""

import time
from dataclasses import dataclass
from pathlib import Path

from .brokers import QUEUE, Broker
from .databases import Database
from .errors import NotMeasured
from .project import Project
from .speed import COMPLETE, wait_for_broker, wait_for_rows
from .worker import Worker, running_worker

FIRST_TASKS = 1000
SETTLE_SECONDS = 3.0

Uss = dict[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes per process, the worker's main process first."""

    variant: str
    tasks: int
    first: list[int]
    last: list[int]

    @property
    def growth(self) -> list[int]:
        return [last - first for first, last in zip(self.first, self.last, strict=True)]


def measure(variant: str, tasks: int, broker: Broker, database: Database, folder: Path) -> Memory:
    project = Project(variant=variant, broker=broker, database=database, folder=folder)
    project.start_fresh()
    with running_worker(project, QUEUE) as worker:
        first = _after(project, worker, FIRST_TASKS, FIRST_TASKS)
        last = _after(project, worker, tasks - FIRST_TASKS, tasks)
    if list(first) != list(last):
        raise NotMeasured(f"expected the same processes at the end, got {list(first)} and {list(last)}")
    return Memory(variant=variant, tasks=tasks, first=list(first.values()), last=list(last.values()))


def _after(project: Project, worker: Worker, more: int, total: int) -> Uss:
    """Publishes `more` tasks, and looks when all `total` have been executed and recorded."""
    project.publish(more, "2KiB")
    wait_for_broker(project, worker, total)
    if complete := COMPLETE.get(project.variant):
        wait_for_rows(project, worker, complete, total)
    time.sleep(SETTLE_SECONDS)
    processes = [worker.process, *worker.process.children(recursive=True)]
    return {process.pid: int(process.memory_full_info().uss) for process in processes}
