"""Several Celery apps in one process, and every way to register a task: each is recorded whole, and can be requeued."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from django_taskops.capture.envelope import Envelope
from django_taskops.models import TaskRun
from example_site.embedded import redis_database
from tests import tasks
from tests.faults.processes import environment
from tests.integration.test_lifecycle import ended
from tests.workers import BrokerQueue, WorkerStarter, eventually

ALIKE = {"first": "application/json", "second": "application/json"}
DIFFERENT = {"first": "application/json", "second": "application/x-second"}
DATABASE = 4  # of Redis: the second broker


@pytest.mark.parametrize("database", ["default"], indirect=True)
@pytest.mark.parametrize("content_types", [ALIKE, DIFFERENT], ids=["alike", "with a broker and a serializer each"])
def test_each_task_of_each_app_is_recorded_whole_and_runs_again(
    start_worker: WorkerStarter,
    queue: BrokerQueue,
    redis_url: str,
    content_types: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BESIDE_QUEUE", queue.name)
    if content_types is DIFFERENT:
        monkeypatch.setenv("BESIDE_SECOND_BROKER", redis_database(redis_url, DATABASE))
    key = uuid4().hex
    published = json.loads(in_the_project("publish", key))
    for app in ("first", "second"):
        start_worker(app=f"tests.beside.two_apps:{app}", queue=BrokerQueue(f"{queue.name}-{app}"))
    runs = {(app, case): ended(task_id) for app in content_types for case, task_id in published[app].items()}
    parent = ended(published["parent"])
    runs["second", "published by a task of the first"] = child = ended(str(parent.result))

    assert (child.parent_id, child.root_id) == (parent.task_id, parent.task_id)
    assert {where: eventually(partial(recorded, run)) for where, run in runs.items()} == {
        (app, case): whole(f"{queue.name}-{app}", key, content_types[app]) for app, case in runs
    }

    tasks.heal(key)
    in_the_project("requeue", *(run.task_id for run in runs.values()))
    for (app, case), run in runs.items():
        assert_healed(run, f"{queue.name}-{app}@tests", f"{case} in {app} to heal")


def assert_healed(before: TaskRun, worker: str, message: str) -> None:
    run = eventually(lambda: TaskRun.objects.get(pk=before.pk, state="SUCCESS"), message=message)
    assert (run.generation, run.result, run.worker) == (1, "healed", worker)
    assert run.dead_letters.get().status == "resolved"


def in_the_project(*command: str) -> str:
    """What another process of the same project prints."""
    return subprocess.run(
        [sys.executable, "-m", "tests.beside.publisher", *command],
        env=environment(JOURNAL="direct"),
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


def recorded(run: TaskRun) -> dict[str, Any]:
    """Fails until its start is told too, which may come after its end."""
    run.refresh_from_db()
    letter = run.dead_letters.get()
    assert run.enqueued_at
    assert run.started_at
    assert run.finished_at
    return {
        "end": (run.state, run.reason, run.exception_message, letter.status),
        "worker": (run.queue, run.worker),
        "call": (run.args, run.kwargs),
        "in order": run.enqueued_at <= run.started_at <= run.finished_at,
        "envelope": Envelope.from_bytes(letter.envelope or b"").content_type,
    }


def whole(queue: str, key: str, content_type: str) -> dict[str, Any]:
    return {
        "end": ("FAILURE", "failed", f"{key} is broken", "open"),
        "worker": (queue, f"{queue}@tests"),
        "call": ([key], {"password": "[redacted]"}),
        "in order": True,
        "envelope": content_type,
    }
