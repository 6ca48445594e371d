"""The checks of the journal: each with its id, and none of them asks the network unless it is told to."""

from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage, run_checks
from pytest_django import Settings

from django_taskops import journal, journal_checks
from django_taskops.journal.base import Backlog
from tests.sources import HEALTHY, FakeSource, UseSources


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id) for message in messages if str(message.id).startswith("taskops.")]


def facts(**changed: str) -> FakeSource:
    return FakeSource(known={**HEALTHY, **changed})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (FakeSource(), []),
        (FakeSource(error=ConnectionError("refused")), ["taskops.W004"]),
        (FakeSource(holding=Backlog(refused="it belongs to another database")), ["taskops.E007"]),
        (facts(redis_version="6.0.16"), ["taskops.E008"]),
        (facts(redis_version="6.2.0"), []),
        (facts(redis_version="10.0.0"), []),
        (facts(redis_version="?"), []),
        (facts(maxmemory="1000", maxmemory_policy="allkeys-lru"), ["taskops.W006"]),
        (facts(maxmemory="0", maxmemory_policy="allkeys-lru"), []),
        (facts(maxmemory="1000", maxmemory_policy="volatile-ttl"), []),
        (facts(maxmemory="1000", maxmemory_policy="noeviction"), []),
        (facts(maxmemory="?", maxmemory_policy="?"), []),
        (facts(aof_enabled="0"), ["taskops.W007"]),
        (facts(aof_enabled="0", save="3600 1"), []),
        (facts(aof_enabled="0", save="?"), []),
    ],
    ids=str,
)
def test_what_can_lose_events_is_told(source: FakeSource, expected: list[str], use_sources: UseSources) -> None:
    use_sources(source)

    assert ids(journal_checks.check_journal()) == expected


def test_a_journal_that_can_not_be_used_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_options: Any) -> None:
        raise ValueError("redis://:secret@nowhere")

    monkeypatch.setattr(journal, "sources", fail)
    (message,) = journal_checks.check_journal()

    assert message.id == "taskops.E006"
    assert "secret" not in message.msg


@pytest.mark.django_db(databases=["default", "sqlite", "mariadb"])  # Django's own checks ask a MariaDB what it can
def test_nobody_asks_the_network_unless_deployment_is_checked(use_sources: UseSources) -> None:
    source = FakeSource(error=ConnectionError("refused"))
    use_sources(source)

    run_checks()
    run_checks(tags=["taskops"])
    assert source.asked == 0
    assert ids(run_checks(tags=["taskops"], include_deployment_checks=True)) == ["taskops.W004"]


@pytest.fixture
def spool_at(monkeypatch: pytest.MonkeyPatch, use_sources: UseSources) -> Any:
    def put(folder: Path, kind: str = "spool") -> None:
        use_sources(kind=kind)
        monkeypatch.setattr(journal, "spool_path", lambda: folder)

    return put


def test_a_spool_that_can_be_made_is_fine_and_is_not_made(spool_at: Any, tmp_path: Path) -> None:
    folder = tmp_path / "spool" / "taskops"
    spool_at(folder)

    assert journal_checks.check_spool() == []
    assert not folder.parent.exists()


def test_a_spool_below_a_file_is_a_warning(spool_at: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spool_at(tmp_path / "file" / "taskops")
    (message,) = journal_checks.check_spool()

    assert message.id == "taskops.W005"
    assert f"{tmp_path / 'file'} is no folder" in message.msg


def test_a_spool_on_a_disk_that_takes_nothing_is_a_warning(spool_at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spool_at(Path("/proc/taskops"))
    monkeypatch.setattr("os.access", lambda *_asked: False)

    assert "is not writable for user" in journal_checks.check_spool()[0].msg


def test_a_spool_that_others_may_change_is_a_warning(spool_at: Any, tmp_path: Path, settings: Settings) -> None:
    settings.TASKOPS = {"SPOOL_DIR": str(tmp_path)}
    tmp_path.chmod(0o777)
    spool_at(tmp_path)

    assert "others may write to it" in journal_checks.check_spool()[0].msg


def test_the_direct_journal_needs_no_spool(spool_at: Any) -> None:
    spool_at(Path("/dev/null/nowhere"), kind="direct")

    assert journal_checks.check_spool() == []


def test_the_folder_that_is_looked_at_is_that_of_the_spool(settings: Settings, tmp_path: Path) -> None:
    settings.TASKOPS = {"JOURNAL": "spool", "SPOOL_DIR": str(tmp_path)}

    assert journal.spool_path().parent == tmp_path
