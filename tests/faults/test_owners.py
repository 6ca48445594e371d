"""Several projects, and strangers, on one Redis: nobody drains another's events."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from pytest_django import Settings

from django_taskops import journal
from django_taskops.journal.stream import RedisSource
from django_taskops.models import OutboxEntry, OutboxKind, TaskRun
from django_taskops.projection.service import drain_once
from tests.faults.accounts import wait_for_shapes
from tests.faults.processes import Process, wait_until_drained_by
from tests.faults.telling import tell
from tests.workers import eventually

if TYPE_CHECKING:
    from tests.events import Story

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
    pytest.mark.usefixtures("database", "journal_there"),
]


def test_two_projects_on_one_redis_each_drain_their_own(
    settings: Settings, start_drain: Callable[..., Process]
) -> None:
    told: dict[str, list[Story]] = {}
    for prefix in ("shop", "warehouse"):
        settings.TASKOPS = {**settings.TASKOPS, "JOURNAL_PREFIX": prefix}
        told[prefix] = tell(5)
    start_drain(JOURNAL_PREFIX="shop", DATABASE="default")

    wait_for_shapes(told["shop"])
    assert not TaskRun.objects.filter(task_id__in=[story.task_id for story in told["warehouse"]]).exists()
    start_drain(JOURNAL_PREFIX="warehouse", DATABASE="default")
    wait_for_shapes(told["warehouse"])


def test_a_stranger_with_the_same_prefix_is_refused_and_drains_nothing(settings: Settings) -> None:
    """A test run, or a shell of staging, whose settings name production's Redis."""
    drain_once(journal.sources(), 10)
    told = tell(5)
    settings.TASKOPS = {**settings.TASKOPS, "DATABASE": "sqlite"}
    source = redis_source()

    assert not source.hold()
    assert "belongs to another database" in source.refused
    assert not source.is_waiting()
    assert [done.source for done in drain_once([source], 10)] == []
    assert not TaskRun.objects.exists()
    assert "belongs to another database" in source.backlog().refused

    settings.TASKOPS = {**settings.TASKOPS, "DATABASE": "default"}
    drain_once(journal.sources(), 10)
    wait_for_shapes(told)


def test_a_new_database_in_the_place_of_the_old_one_is_another_database(settings: Settings) -> None:
    """The id is the database's own: at the same address, another one may have taken its place."""
    drain_once(journal.sources(), 10)
    tell(5)
    OutboxEntry.objects.filter(kind=OutboxKind.CLAIM).delete()

    assert not redis_source().hold()


def test_adoption_takes_over(settings: Settings, start_drain: Callable[..., Process]) -> None:
    drain_once(journal.sources(), 10)
    told = tell(5)
    settings.TASKOPS = {**settings.TASKOPS, "DATABASE": "sqlite"}
    refused = start_drain()
    wait_until_drained_by(refused, sources=["spool"])
    eventually(lambda: redis_source().backlog().refused)
    assert not TaskRun.objects.exists()
    refused.terminate()

    start_drain("--adopt")

    wait_for_shapes(told)
    settings.TASKOPS = {**settings.TASKOPS, "DATABASE": "default"}
    assert not redis_source().hold()


def redis_source() -> RedisSource:
    source = journal.sources()[0]
    assert isinstance(source, RedisSource)
    return source
