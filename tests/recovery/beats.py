"""Workers, as their beats tell of them, and a task that waits for one."""

from datetime import timedelta
from typing import Any

from django.db.models.functions import Now
from django.utils import timezone

from django_taskops.models import TaskRun, WorkerBeat
from tests import tasks
from tests.factories import TaskRunFactory, WorkerBeatFactory
from tests.workers import BrokerQueue


def alive(worker: str = "w1@shop", **fields: Any) -> WorkerBeat:
    """Heard of just now by the database's clock. What is no column goes into the details."""
    columns = {field.name for field in WorkerBeat._meta.concrete_fields}
    details = {name: fields.pop(name) for name in set(fields) - columns}
    held = len(details.get("running", [])) + len(details.get("reserved", []))
    return WorkerBeatFactory(
        **{"applied_at": Now(), "tasks": ["shop.tasks.price"], **fields},
        worker=worker,
        details={"queues": ["celery"], "running": [], "reserved": [], "held": held, "concurrency": 2, **details},
    )


def silent(worker: str = "w1@shop", seconds: float = 600, **fields: Any) -> WorkerBeat:
    return alive(worker, applied_at=timezone.now() - timedelta(seconds=seconds), **fields)


def held(task_id: str, name: str = "shop.tasks.price") -> list[str]:
    return [f"d-{task_id}"[:36], task_id, name]


def sent(queue: BrokerQueue) -> TaskRun:
    """A message in the broker, and its row, which would wait for the commit of the test's transaction."""
    result = tasks.add.delay(1, 2)
    return TaskRunFactory(task_id=result.id, task_name=tasks.add.name, queue=queue.name, published=timezone.now())
