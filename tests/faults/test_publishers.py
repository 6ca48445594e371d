"""Processes that publish and end at once, and such as fork: no event is lost, and no socket is shared."""

import json
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from django_taskops import journal
from django_taskops.events import EventKind
from django_taskops.models import TaskRun
from tests.events import read_event
from tests.faults.processes import python
from tests.faults.publisher import CHILDREN, EACH

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
    pytest.mark.usefixtures("database", "journal_there"),
    pytest.mark.parametrize("kind", ["redis", "spool"]),
]


def test_a_command_that_exits_at_once_loses_nothing(kind: str, settings: Settings, tmp_path: Path) -> None:
    use(kind, settings)
    told, found = run("once", tmp_path)

    assert len(told) == 1
    assert found == everything(told)


@pytest.mark.parametrize("how", ["sys.exit", "os._exit"])
def test_a_server_that_forks_its_workers_loses_nothing(how: str, kind: str, settings: Settings, tmp_path: Path) -> None:
    use(kind, settings)
    told, found = run(how, tmp_path)

    assert found == everything(told)
    assert len(found) == EACH * (CHILDREN + 3)
    ports = {(each["pid"], port) for each in told for port in each["ports"]}
    assert len(ports) == len({port for _pid, port in ports})
    if kind == "redis":
        assert len({pid for pid, _port in ports}) == CHILDREN + 1


def use(kind: str, settings: Settings) -> None:
    if kind == "spool":
        settings.TASKOPS = {**settings.TASKOPS, "JOURNAL": "spool"}


def run(how: str, tmp_path: Path) -> tuple[list[dict[str, Any]], set[str]]:
    """What it said, and the ids of the tasks whose publication has come to us, wherever."""
    spool = journal.sources()[-1]
    assert spool.hold()
    with python(tmp_path / "publisher.log", "-m", "tests.faults.publisher", how) as process:
        lines = process.output().splitlines()
    spool.release()
    told = [line for line in lines if line.startswith("{")]  # from Python 3.12 on a fork beside threads is warned of
    return [json.loads(line) for line in told], published()


def published() -> set[str]:
    """One that Redis had and was slow to confirm may be there twice."""
    found = set(TaskRun.objects.values_list("task_id", flat=True))
    for source in journal.sources():
        assert source.hold()
        events = [read_event(entry.data) for entry in source.read(10_000, 0)]
        found |= {event.task_id for event in events if event.kind is EventKind.PUBLISHED}
        source.release()
    return found


def everything(told: list[dict[str, Any]]) -> set[str]:
    return {task_id for each in told for task_id in each["published"]}
