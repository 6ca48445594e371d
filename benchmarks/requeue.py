"""Requeueing alone: fills the tables with dead letters and the result backend with failures, then puts all back.

`measure` runs this module as a process of its own in the project it measures.
"""

import argparse
import io
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import django
import psutil

from .brokers import QUEUE, RedisBroker
from .databases import Database
from .errors import NotMeasured
from .project import Project

CHUNK = 1000
MIB = 1024 * 1024
WAYS = {"yes": ["--yes"], "preview": ["--dry-run"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeued:
    """`growth` is how much memory the process has taken in at most since it had the keys of the letters, in bytes."""

    way: str
    database: str
    letters: int
    seconds: float
    growth: int

    @property
    def letters_per_second(self) -> float:
        return self.letters / self.seconds


def measure(letters: int, way: str, broker: RedisBroker, database: Database, folder: Path) -> Requeued:
    """Raises NotMeasured where not all letters have been sent."""
    project = Project(variant="taskops", broker=broker, database=database, folder=folder)
    project.start_fresh()
    said = project.run("benchmarks.requeue", "--letters", str(letters), "--way", way)
    expected = 0 if way == "preview" else letters
    if (sent := broker.queued()) != expected:
        raise NotMeasured(f"expected {expected} messages in the queue, got {sent}")
    return Requeued(way=way, database=database.name, letters=letters, **json.loads(said.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.requeue", description=__doc__)
    parser.add_argument("--letters", type=int, required=True)
    parser.add_argument("--way", choices=WAYS, required=True)
    options = parser.parse_args()
    django.setup()
    from .app import app

    app.conf.result_backend = app.conf.broker_url
    for start in range(0, options.letters, CHUNK):
        _fill(range(start, min(start + CHUNK, options.letters)))
    _put_back(["--dry-run", "--limit", "1"])  # its imports and its connections are not its speed
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    _put_back(WAYS[options.way])
    seconds = time.perf_counter() - started
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(json.dumps({"seconds": seconds, "growth": growth}))


def _put_back(arguments: Sequence[str]) -> None:
    from django.core.management import call_command

    ways = arguments if "--dry-run" in arguments else [*arguments, "--yes"]
    try:
        call_command("taskops_requeue", "--task", "*", "--attempts", "once", *ways, stdout=io.StringIO())
    except SystemExit as end:
        if end.code:
            raise


def _fill(places: Sequence[int]) -> None:
    from django_taskops.models import DeadLetter, TaskRun

    from .app import app

    runs = TaskRun.objects.bulk_create([_run(place) for place in places])
    DeadLetter.objects.bulk_create([_letter(run) for run in runs])
    for run in runs:
        app.backend.store_result(run.task_id, ValueError("503"), "FAILURE", traceback="Traceback")


def _run(place: int) -> Any:
    from django_taskops.models import TaskRun

    now = datetime.now(UTC)
    return TaskRun(
        task_id=str(uuid4()),
        task_name="benchmarks.app.noop",
        state="FAILURE",
        reason="failed",
        queue=QUEUE,
        delivery=str(uuid4()),
        publication=uuid4().hex,
        verdict="failed",
        args=[place, "a short text"],
        kwargs={"currency": "EUR"},
        enqueued_at=now,
        started_at=now,
        finished_at=now,
        exception_type="shop.errors.SupplierDown",
    )


def _letter(run: Any) -> Any:
    from kombu.utils.json import dumps

    from django_taskops.capture.envelope import Envelope
    from django_taskops.models import DeadLetter

    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    message = Envelope(
        body=dumps([run.args, run.kwargs, embed]).encode(),
        content_type="application/json",
        content_encoding="utf-8",
        headers={
            "lang": "py",
            "task": run.task_name,
            "id": run.task_id,
            "root_id": run.task_id,
            "retries": 0,
            "taskops_publication": run.publication,
        },
        properties={"correlation_id": run.task_id, "delivery_mode": 2, "priority": 0},
        exchange="",
        routing_key=QUEUE,
        queue=QUEUE,
    )
    return DeadLetter(
        run=run,
        task_id=run.task_id,
        task_name=run.task_name,
        publication=run.publication,
        reason="failed",
        died_at=run.finished_at,
        envelope=message.to_bytes(),
    )


if __name__ == "__main__":
    main()
