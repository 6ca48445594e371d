"""`taskops_prune`: what people and cron read of it, and the same work as a task."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from django_taskops.management.commands import taskops_prune
from django_taskops.models import OutboxEntry, OutboxStatus, TaskRun
from django_taskops.recovery.retention import Pruned
from django_taskops.tasks import housekeep
from tests.factories import OutboxEntryFactory, TaskRunFactory


def prune(*options: str) -> str:
    out = StringIO()
    call_command("taskops_prune", *options, stdout=out)
    return out.getvalue()


def old_runs(number: int) -> None:
    TaskRunFactory.create_batch(number, succeeded=True, published=timezone.now() - timedelta(days=8))


def test_it_says_what_went(database: str) -> None:
    old_runs(2)

    assert prune().splitlines() == [
        "RETENTION keeps for ever: dead_letter.",
        "Deleted:",
        "  2 runs that succeeded or were ignored",
        "  0 successes that KEEP_SUCCESS does not keep",
        "  0 runs that ended otherwise",
        "  0 dead letters that nobody waits for",
        "  0 outbox entries that were carried out",
        "  0 workers that were not heard of for a week",
        "  0 chords of a month ago, of which no member is dead",
    ]
    assert not TaskRun.objects.exists()


def test_a_dry_run_says_what_would_go_and_deletes_nothing(database: str) -> None:
    old_runs(2)

    assert prune("--dry-run").splitlines()[1:3] == ["Would be deleted:", "  2 runs that succeeded or were ignored"]
    assert TaskRun.objects.count() == 2


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_json(database: str, options: list[str]) -> None:
    old_runs(2)
    found: dict[str, Any] = json.loads(prune("--json", *options))

    assert found.pop("longest_seconds") >= 0
    assert found == {
        "dry_run": bool(options),
        "retention": {"success": 7, "failure": 90, "dead_letter": None},
        "success": 2,
        "sampled": 0,
        "failure": 0,
        "dead_letter": 0,
        "outbox": 0,
        "worker": 0,
        "chord": 0,
    }


def test_it_says_so_where_everything_is_kept(database: str, settings: Settings) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "RETENTION": {"success": None, "failure": None}}
    old_runs(1)

    assert prune().splitlines()[0] == "RETENTION keeps all runs and dead letters for ever."
    assert TaskRun.objects.exists()


def test_a_wrong_setting_is_an_error_of_the_command(database: str, settings: Settings) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "RETENTION": {"success": -1}}

    with pytest.raises(CommandError, match="RETENTION: expected days above 0"):
        prune()


def test_every_count_has_its_words() -> None:
    assert [*taskops_prune.WORDS, "longest_seconds"] == list(Pruned.__dataclass_fields__)


def test_the_task_carries_out_and_prunes(database: str) -> None:
    """The entry fails, since its letter is missing: it was tried."""
    old_runs(2)
    entry = OutboxEntryFactory(payload={"run": 0, "publication": "", "generation": 0})
    housekeep.apply(throw=True)

    assert not TaskRun.objects.filter(task_name="shop.tasks.price").exists()
    entry = OutboxEntry.objects.get(pk=entry.pk)
    assert (entry.tries, entry.status) == (1, OutboxStatus.PENDING)


def test_the_task_has_a_name_of_its_own_and_no_result() -> None:
    assert (housekeep.name, housekeep.ignore_result) == ("django_taskops.housekeep", True)
