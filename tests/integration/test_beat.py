"""Celery's own beat: a run says which entry of the schedule it comes from, on its retries too."""

from typing import Any
from uuid import uuid4

import pytest
from celery import current_app, signals
from celery.app import app_or_default
from celery.beat import Scheduler, Service

from django_taskops.models import TaskRun
from django_taskops.states import TaskState
from tests.workers import BrokerQueue, Worker, eventually


@pytest.fixture
def schedule(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    entry = {"task": "tests.tasks.flaky", "schedule": 3600.0, "args": (uuid4().hex, 1)}
    entries = {"nightly: price orders": entry}
    monkeypatch.setitem(current_app.conf, "beat_schedule", entries)
    return entries


def tick() -> None:
    """What beat does when an entry is due."""
    service = Service(app_or_default(), scheduler_cls=Scheduler)
    signals.beat_init.send(sender=service)
    scheduler = service.scheduler
    scheduler.apply_entry(scheduler.schedule["nightly: price orders"])


def test_a_periodic_run_names_its_entry_through_its_retries(worker: Worker, schedule: dict[str, Any]) -> None:
    tick()

    run = eventually(lambda: TaskRun.objects.get(task_name="tests.tasks.flaky", state=TaskState.SUCCESS))
    assert run.retries == 1
    assert run.periodic_task == "nightly: price orders"


@pytest.mark.django_db(transaction=True)
def test_other_publishes_of_the_same_task_name_none(
    database: str, queue: BrokerQueue, schedule: dict[str, Any]
) -> None:
    tick()
    current_app.send_task("tests.tasks.flaky", args=("x", 1))

    assert list(TaskRun.objects.order_by("pk").values_list("periodic_task", flat=True)) == [
        "nightly: price orders",
        "",
    ]
