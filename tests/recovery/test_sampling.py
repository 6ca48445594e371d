"""KEEP_SUCCESS: of the plain successes a sample is kept, of everything else all."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from django_taskops.models import Chord, TaskRun
from django_taskops.projection import writer
from django_taskops.recovery.retention import Chore, Pruned, prune, sampling
from django_taskops.states import TaskState
from tests.events import Story
from tests.factories import DeadLetterFactory, TaskAttemptFactory, TaskRunFactory


def ended(minutes: float, state: str = TaskState.SUCCESS, **fields: Any) -> TaskRun:
    at = timezone.now() - timedelta(minutes=minutes)
    run: TaskRun = TaskRunFactory(published=at - timedelta(minutes=1), started=True, state=state, finished_at=at)
    TaskRun.objects.filter(pk=run.pk).update(**fields)
    return run


def keep(settings: Settings, share: float) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "KEEP_SUCCESS": share}


def test_all_are_kept_unless_the_project_says_otherwise(database: str) -> None:
    ended(11)

    assert prune() == Pruned()


def test_a_success_that_is_not_kept_goes_ten_minutes_after_its_end(database: str, settings: Settings) -> None:
    keep(settings, 0)
    ended(10.1)
    young = ended(9.9)

    assert prune(dry_run=True) == Pruned(sampled=1)
    assert prune() == Pruned(sampled=1)
    assert list(TaskRun.objects.all()) == [young]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_of_any_number_of_runs_that_follow_each_other_the_share_is_kept(
    database: str, settings: Settings, share: float
) -> None:
    keep(settings, share)
    ended(11)
    first = TaskRun.objects.values().get()
    del first["id"], first["task_id"]
    TaskRun.objects.bulk_create([TaskRun(task_id=f"run {number}", **first) for number in range(99)])

    prune()

    assert TaskRun.objects.count() == pytest.approx(share * 100, abs=4)
    assert prune() == Pruned()


@pytest.mark.parametrize("state", sorted(set(TaskState) - {TaskState.SUCCESS}))
def test_whatever_is_no_success_is_kept(database: str, settings: Settings, state: str) -> None:
    keep(settings, 0)
    ended(11, state)

    assert prune() == Pruned()


def test_the_history_of_a_failure_is_kept(database: str, settings: Settings) -> None:
    keep(settings, 0)
    TaskAttemptFactory(run=ended(11))
    DeadLetterFactory(run=ended(11), resolved=True)
    ended(11, generation=1)
    ended(11, requeued_from="another")

    assert prune() == Pruned()
    assert TaskRun.objects.count() == 4


def test_what_may_heal_an_open_letter_is_kept(database: str, settings: Settings) -> None:
    keep(settings, 0)
    DeadLetterFactory(task_name="shop.tasks.mail")
    DeadLetterFactory(task_name="shop.tasks.price", resolved=True)
    kept = ended(11, task_name="shop.tasks.mail")
    ended(11, task_name="shop.tasks.price")

    assert prune() == Pruned(sampled=1)
    assert TaskRun.objects.filter(pk=kept.pk).exists()


@pytest.mark.parametrize("body", ["unknown", "not there", "given up", "published"])
def test_members_of_a_chord_are_kept_until_its_body_is_published(database: str, settings: Settings, body: str) -> None:
    keep(settings, 0)
    member = ended(11, group_id="g")
    ended(11, group_id="no chord")
    Chord.objects.create(group_id="g", members=[member.task_id], body_id="" if body == "unknown" else "body")
    if body == "given up":
        TaskRunFactory(task_id="body", state=TaskState.FAILURE, reason="upstream_failed")
    if body == "published":
        writer.apply([Story("body").published()])

    assert prune() == Pruned(sampled=2 if body == "published" else 1)
    assert TaskRun.objects.filter(pk=member.pk).exists() == (body != "published")


def test_a_success_that_is_told_by_real_events_goes_with_all_its_rows(database: str, settings: Settings) -> None:
    """One that was retried stays, with its attempt."""
    keep(settings, 0)
    plain, retried = Story(), Story()
    tried = [retried.published(), retried.started(), retried.retried()]
    writer.apply([*tried, retried.published(), retried.started(), retried.succeeded()])
    writer.apply([plain.published(), plain.started()])
    writer.apply([plain.succeeded()])
    TaskRun.objects.update(finished_at=timezone.now() - timedelta(minutes=11))

    assert prune() == Pruned(sampled=1)
    assert TaskRun.objects.get().task_id == retried.task_id


def test_what_is_old_enough_to_go_anyway_is_counted_once(database: str, settings: Settings) -> None:
    keep(settings, 0)
    ended(8 * 24 * 60)

    assert prune(dry_run=True) == Pruned(success=1)
    assert prune() == Pruned(success=1)


def test_a_later_pass_looks_only_at_what_has_ended_since(
    database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(settings, 0.0001)
    chore = Chore()
    chore()
    ended(24 * 60)  # would have been told a day late
    late = ended(30)
    monkeypatch.setattr(chore, "_not_before", 0.0)

    chore()

    assert not TaskRun.objects.filter(pk=late.pk).exists()
    assert TaskRun.objects.count() == 1
    Chore()()
    assert not TaskRun.objects.exists()


def test_a_wrong_share_deletes_nothing(database: str, settings: Settings) -> None:
    keep(settings, 2)
    ended(8 * 24 * 60)

    with pytest.raises(ImproperlyConfigured, match="KEEP_SUCCESS: expected a number from 0 to 1"):
        prune()
    assert TaskRun.objects.exists()


def test_without_time_zones_it_is_the_same(database: str, settings: Settings) -> None:
    settings.USE_TZ = False
    keep(settings, 0)
    ended(11)
    ended(9)

    assert prune() == Pruned(sampled=1)


def test_where_all_are_kept_nothing_is_asked(database: str, settings: Settings) -> None:
    with CaptureQueriesContext(connections[database]) as queries:
        prune()

    assert not any(str(sampling._SCATTER) in query["sql"] for query in queries)
