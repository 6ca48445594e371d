"""Deleting alone: fills the tables with runs that are due, then prunes them in one process.

`measure` runs this module as a process of its own in the project it measures.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import django

from .brokers import Broker
from .databases import Database
from .errors import NotMeasured
from .project import Project

KINDS = {
    "success": "runs that succeeded at the first attempt",
    "failure": "failed runs with two attempts and an envelope of 1 KiB each",
}
CHUNK = 2000
ATTEMPTS = 2
TRACEBACK = "Traceback (most recent call last):\n" + '  File "shop/tasks.py", line 31, in price\n' * 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """`longest` is that of the transactions, in seconds."""

    kind: str
    database: str
    rows: int
    seconds: float
    longest: float

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds


def measure(rows: int, kind: str, broker: Broker, database: Database, folder: Path) -> Pruning:
    """Raises NotMeasured where the pruning fails or leaves a row."""
    project = Project(variant="taskops", broker=broker, database=database, folder=folder)
    project.start_fresh()
    said = project.run("benchmarks.prune", "--rows", str(rows), "--kind", kind)
    if left := database.number("SELECT count(*) FROM taskops_taskrun"):
        raise NotMeasured(f"expected no rows to be left, got {left:.0f}")
    return Pruning(kind=kind, database=database.name, rows=rows, **json.loads(said.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.prune", description=__doc__)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    options = parser.parse_args()
    django.setup()
    from django_taskops.recovery.retention import prune

    prune()  # of nothing: its imports and its connection are not its speed
    for start in range(0, options.rows, CHUNK):
        _fill(options.kind, range(start, min(start + CHUNK, options.rows)))
    started = time.perf_counter()
    pruned = prune()
    print(json.dumps({"seconds": time.perf_counter() - started, "longest": pruned.longest_seconds}))


def _fill(kind: str, places: Sequence[int]) -> None:
    from django_taskops.models import TaskRun
    from django_taskops.projection import bulk

    pks = bulk.insert(TaskRun, [_run(kind, place) for place in places], "task_id")
    if kind == "failure":
        _fill_beside(list(pks.values()))


def _run(kind: str, place: int) -> dict[str, Any]:
    """Each ended a second after the one before, long ago."""
    ended = datetime.now(UTC) - timedelta(days=400) + timedelta(seconds=place)
    failed = {"reason": "failed", "exception_type": "shop.errors.SupplierDown", "traceback": TRACEBACK}
    return {
        "task_id": str(uuid4()),
        "task_name": "shop.tasks.price",
        "state": kind.upper(),
        "queue": "celery",
        "worker": "celery@shop-1",
        "boot_id": str(uuid4()),
        "delivery": str(uuid4()),
        "publication": uuid4().hex,
        "args": [42],
        "kwargs": {"currency": "EUR"},
        "enqueued_at": ended - timedelta(seconds=3),
        "started_at": ended - timedelta(seconds=1),
        "finished_at": ended,
        **(failed if kind == "failure" else {}),
    }


def _fill_beside(pks: Sequence[int]) -> None:
    from django_taskops.models import RunEnvelope, TaskAttempt
    from django_taskops.projection import bulk

    attempts = [
        TaskAttempt(run_id=pk, delivery=str(uuid4()), number=number + 1, state="RETRY", traceback=TRACEBACK)
        for pk in pks
        for number in range(ATTEMPTS)
    ]
    TaskAttempt.objects.bulk_create(attempts)
    bulk.replace(RunEnvelope, [{"run_id": pk, "envelope": uuid4().bytes * 64} for pk in pks])


if __name__ == "__main__":
    main()
