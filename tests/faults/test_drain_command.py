"""`taskops_drain` as people start and stop it."""

import json
from collections.abc import Callable

import pytest
from django.core.management import CommandError, call_command

from django_taskops import journal
from django_taskops.models import TaskRun
from tests.faults.accounts import wait_for_shapes
from tests.faults.processes import Process, wait_until_drained_by
from tests.faults.telling import tell
from tests.servers import RedisServer
from tests.workers import eventually

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
    pytest.mark.usefixtures("database", "journal_there"),
]

LEASE_SECONDS = 5


def test_once_drains_what_waits_and_ends(start_drain: Callable[..., Process]) -> None:
    told = tell(5)

    said = start_drain("--once", "--json").output()

    assert {"source": "redis", "applied": 25, "quarantined": 0} in json.loads(said)
    wait_for_shapes(told, timeout=1)
    assert [source.backlog().holder for source in journal.sources()] == ["", ""]


def test_once_with_nothing_to_do_says_so_and_ends(start_drain: Callable[..., Process]) -> None:
    assert "redis: 0 applied, 0 quarantined" in start_drain("--once").output()
    assert not TaskRun.objects.exists()


def test_a_dry_run_says_what_waits_and_applies_nothing(
    start_drain: Callable[..., Process], capsys: pytest.CaptureFixture[str]
) -> None:
    told = tell(5)
    journal.flush()

    call_command("taskops_drain", "--dry-run", "--json")
    assert {"source": "redis", "waiting": 25, "error": ""} in json.loads(capsys.readouterr().out)
    call_command("taskops_drain", "--dry-run")
    assert "redis: 25 would be applied" in capsys.readouterr().out

    assert not TaskRun.objects.exists()
    start_drain("--once").output()  # in a process of its own: it changes how garbage is collected
    wait_for_shapes(told, timeout=1)


def test_a_dry_run_of_a_journal_that_is_away_says_so(
    capsys: pytest.CaptureFixture[str], journal_redis: RedisServer
) -> None:
    journal_redis.stop()

    with pytest.raises(SystemExit, match="1"):
        call_command("taskops_drain", "--dry-run")

    assert "redis: ConnectionError" in capsys.readouterr().out


def test_a_drain_that_goes_on_has_no_result_to_say_as_json() -> None:
    with pytest.raises(CommandError, match="expected --once or --dry-run"):
        call_command("taskops_drain", "--json")


def test_a_terminated_drain_gives_its_place_to_the_next_at_once(start_drain: Callable[..., Process]) -> None:
    first = start_drain()
    wait_until_drained_by(first)
    second = start_drain()
    eventually(lambda: len(second.log_text()) >= 0 and second.popen.poll() is None)

    assert first.terminate(LEASE_SECONDS / 2) == 0

    wait_until_drained_by(second)
    wait_for_shapes(tell(5))


def test_of_several_drains_one_works_until_it_is_killed_and_another_takes_over(
    start_drain: Callable[..., Process],
) -> None:
    first = start_drain()
    wait_until_drained_by(first)
    second = start_drain()
    wait_for_shapes(tell(5))
    first.kill()
    told = tell(5)

    wait_until_drained_by(second)
    wait_for_shapes(told)
