"""`manage.py taskops_reap`: the reaper by hand, where no worker is left to do it."""

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from pytest_django import Settings

from django_taskops import journal
from django_taskops.models import DeadLetter, TaskRun, WorkerBeat
from django_taskops.projection import writer
from django_taskops.recovery import reap, workers
from django_taskops.recovery.lease import Lease
from tests import tasks
from tests.events import Story
from tests.lifecycle.cases import key
from tests.workers import WorkerStarter, eventually

QUICK = {"WORKER_TIMEOUT": 1}


@pytest.fixture(autouse=True)
def quick(settings: Settings) -> None:
    settings.TASKOPS = {**settings.TASKOPS, **QUICK}


def told(**options: Any) -> dict[str, Any]:
    out = StringIO()
    call_command("taskops_reap", stdout=out, json=True, **options)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_it_ends_what_the_last_worker_has_left(start_worker: WorkerStarter) -> None:
    doomed = start_worker(taskops=QUICK)
    name = key()
    result = tasks.wait_for.delay(name)
    eventually(lambda: TaskRun.objects.get(task_id=result.id).state == "STARTED")
    doomed.kill()
    usual = journal.use(None)
    try:
        assert told(dry_run=True) == {"judged": True, "why": "", "runs": {"worker_lost": 1}}
        assert not DeadLetter.objects.exists()
        assert told() == {"judged": True, "why": "", "runs": {"worker_lost": 1}}
    finally:
        journal.use(usual)

    assert DeadLetter.objects.get(task_id=result.id).reason == "worker_lost"
    assert [beat.pid for beat in WorkerBeat.objects.all()] == [doomed.pid]


def test_it_needs_no_worker_to_have_been_seen(database: str, transactional_db: None) -> None:
    """A run of a boot that has never beaten is one of a worker that is gone."""
    story = Story()
    writer.apply([story.published(), story.started()])
    done = reap()

    assert (done.judged, dict(done.runs)) == (True, {"worker_lost": 1})
    description = DeadLetter.objects.get(task_id=story.task_id).description
    assert description == "worker w1@shop: nothing has been heard of it for 1 s"
    assert workers.seen() == []


def test_a_worker_that_does_it_is_left_to_it(database: str, transactional_db: None) -> None:
    assert Lease("housekeeping", 30).hold()
    found = told()
    assert (found["judged"], found["runs"]) == (False, {})
    assert "a worker does this already" in found["why"]


def test_where_no_beats_come_through_it_says_so(
    database: str, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal.current(), "append_later", lambda _record: None)
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("taskops_reap", stdout=out, timeout=1)
    assert ended.value.code == 1
    assert "no beats came through" in out.getvalue()


def test_a_timeout_is_a_number_of_seconds(database: str) -> None:
    with pytest.raises(CommandError, match="--timeout: expected seconds above 0, got -1"):
        call_command("taskops_reap", timeout=-1)
