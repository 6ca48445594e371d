"""The database goes away under load, and comes back."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections

from django_taskops.models import OutboxEntry, OutboxKind, QuarantinedEntry, TaskRun
from tests import tasks
from tests.faults.accounts import Shape, ended, wait_for_shape
from tests.faults.own_database import OwnDatabase
from tests.workers import WorkerStarter

pytestmark = [
    pytest.mark.parametrize("database", ["default"], indirect=True),
    pytest.mark.usefixtures("journal_there"),
]

OUTAGE_SECONDS = 30 if os.environ.get("TASKOPS_LONG_TESTS") else 5
TASKS = 60 * OUTAGE_SECONDS
SLOWEST_SECONDS = 3  # from its publication to its result, on a busy machine
KINDS: list[tuple[Callable[[], Any], Shape]] = [
    *[(tasks.succeed.delay, ("SUCCESS", 0, 1, 0, 0))] * 8,
    (lambda: tasks.flaky.delay(uuid4().hex, 1), ("SUCCESS", 1, 2, 1, 0)),
    (tasks.fail.delay, ("FAILURE", 0, 1, 1, 1)),
]


@dataclass(slots=True)
class Published:
    result: Any
    expected: Shape
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def seconds(self) -> float:
        """From its publication to its result."""
        self.result.get(timeout=20, propagate=False)
        assert self.result.state == self.expected[0]
        spent: float = (self.result.date_done.replace(tzinfo=UTC) - self.at).total_seconds()
        return spent


@pytest.mark.alone
def test_no_task_fails_or_waits_and_all_have_their_rows_afterwards(
    own_database: OwnDatabase, start_worker: WorkerStarter
) -> None:
    own_database.migrate()
    start_worker()
    ended(tasks.add.delay(1, 2))

    own_database.server.stop()
    published = under_load()
    slowest = max(each.seconds() for each in published)
    own_database.server.start()
    connections["default"].close()  # the old one is dead

    assert slowest < SLOWEST_SECONDS
    for each in published:
        wait_for_shape(each.result.id, each.expected)
    assert TaskRun.objects.count() == TASKS + 1
    assert not QuarantinedEntry.objects.exists()
    letters = sum(each.expected[-1] for each in published)
    assert OutboxEntry.objects.filter(kind=OutboxKind.DEAD_LETTERED).count() == letters


def under_load() -> list[Published]:
    """Publishes at an even pace as long as the outage is to last."""
    published, started = [], time.monotonic()
    for number in range(TASKS):
        publish, expected = KINDS[number % len(KINDS)]
        published.append(Published(publish(), expected))
        time.sleep(max(0, started + number * OUTAGE_SECONDS / TASKS - time.monotonic()))
    return published
