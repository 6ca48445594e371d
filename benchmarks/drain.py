"""The drain alone: fills the journal by way of its own `append`, then applies it all in one process on one core.

`measure` runs this module as a process of its own in the project it measures.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import django

from .brokers import Broker
from .databases import Database
from .errors import NotMeasured
from .payloads import PAYLOADS
from .project import Project
from .speed import COMPLETE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django_taskops.events import Event

KINDS = 3
ORDERS = {
    "steady": "each task's three events in a row, as where workers keep up",
    "backlog": "first every publish, then the pairs of start and end, as after a burst",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """`cpu` is that of the drain's process, `seconds` those on the clock."""

    payload: str
    order: str
    events: int
    seconds: float
    cpu: float

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds


def measure(events: int, payload: str, order: str, broker: Broker, database: Database, folder: Path) -> Drained:
    """Raises NotMeasured where the drain fails or leaves a row incomplete."""
    project = Project(variant="taskops", broker=broker, database=database, folder=folder)
    project.start_fresh()
    tasks = events // KINDS
    said = project.run("benchmarks.drain", "--tasks", str(tasks), "--payload", payload, "--order", order)
    complete = database.number(COMPLETE["taskops"]) or 0
    if complete != tasks:
        raise NotMeasured(f"expected {tasks} complete rows, got {complete:.0f}")
    return Drained(payload=payload, order=order, events=tasks * KINDS, **json.loads(said.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.drain", description=__doc__)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--payload", choices=PAYLOADS, required=True)
    parser.add_argument("--order", choices=ORDERS, required=True)
    options = parser.parse_args()
    from .app import app

    django.setup()
    app.finalize()
    drain_everything()  # of nothing: its imports and its connection are not its speed
    _fill(options.tasks, options.payload, options.order)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    started, used = time.perf_counter(), time.process_time()
    drain_everything()
    print(json.dumps({"seconds": time.perf_counter() - started, "cpu": time.process_time() - used}))


def drain_everything() -> None:
    """Applies all that waits in the journal, in this process."""
    from django.core.management import call_command

    call_command("taskops_drain", once=True)


def _fill(tasks: int, payload: str, order: str) -> None:
    from django_taskops import journal
    from django_taskops.models import TaskRun

    published = _captured(payload)
    lives = [_life(published) for _ in range(tasks)]
    current = journal.current()
    for event in _in_order(lives, order):
        current.append(event)
    current.flush()
    if TaskRun.objects.exists():
        sys.exit("expected the journal to keep its events until they are drained, some are in the table already")


def _in_order(lives: "Sequence[tuple[Event, Event, Event]]", order: str) -> "Iterator[Event]":
    if order == "steady":
        return chain.from_iterable(lives)
    return chain((life[0] for life in lives), chain.from_iterable(life[1:] for life in lives))


def _captured(payload: str) -> "Event":
    """What the package itself makes of a publish, so that its size is the real one."""
    from django_taskops import journal

    from .app import noop

    class Recording:
        def __init__(self) -> None:
            self.events: list[Event] = []

        def append(self, event: "Event") -> None:
            self.events.append(event)

        def deferring(self) -> bool:
            return False

    own, recording = journal.current(), Recording()
    journal.use(recording)  # type: ignore[arg-type]  # publishing asks it for nothing else
    args, kwargs = PAYLOADS[payload]
    noop.delay(*args, **kwargs)
    journal.use(own)
    return recording.events[0]


def _life(published: "Event") -> "tuple[Event, Event, Event]":
    """Another task like `published`, and what a worker says of it."""
    from django_taskops.events import EventKind, Executor, Outcome

    task_id, delivery, publication = str(uuid4()), str(uuid4()), uuid4().hex
    executor = Executor(worker="bench@localhost", boot_id=str(uuid4()), pid=os.getpid(), acks_late=False)
    assert published.call is not None
    publish = replace(
        published, task_id=task_id, publication=publication, call=replace(published.call, root_id=task_id)
    )
    start = replace(publish, kind=EventKind.STARTED, call=None, delivery=delivery, executor=executor)
    return publish, start, replace(start, kind=EventKind.SUCCEEDED, outcome=Outcome())


if __name__ == "__main__":
    main()
