"""`taskops_stats`: what monitoring and people read of the recorder."""

import json
from contextlib import nullcontext
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from django_taskops.management.commands import taskops_stats
from django_taskops.projection import status
from tests.factories import DeadLetterFactory, QuarantinedEntryFactory, RecorderFactory, TaskRunFactory
from tests.sources import FakeSource, UseSources, waiting


def stats(*options: str, code: int = 0) -> str:
    """What the command says; fails where it exits with another code."""
    out = StringIO()
    with pytest.raises(SystemExit) if code else nullcontext() as left:
        call_command("taskops_stats", *options, stdout=out)
    assert left is None or left.value.code == code
    return out.getvalue()


def test_json_says_what_is_seen(database: str, use_sources: UseSources) -> None:
    use_sources(FakeSource(holding=waiting(5, seconds=2, holder="shop-1 7", dropped={"started": 3})))
    TaskRunFactory.create_batch(2, succeeded=True)
    DeadLetterFactory()
    DeadLetterFactory(discarded=True)
    QuarantinedEntryFactory()
    RecorderFactory()
    found: dict[str, Any] = json.loads(stats("--json"))
    (source,) = found["sources"]

    assert (found["seeing"], found["blind"]) == (True, [])
    assert found["journal"] == {"kind": "redis", "address": "localhost:6379/1"}
    assert source.pop("lag_seconds") == pytest.approx(2, abs=5)
    assert source == {
        "name": "redis",
        "reachable": True,
        "events": 5,
        "bytes": 3500,
        "limit_bytes": 256 * 1024**2,
        "dropped": {"started": 3},
        "holder": "shop-1 7",
        "refused": "",
    }
    assert found["recorders"][0]["applied"] == 120_000
    assert (found["quarantined"], found["open_letters"], found["counted_up_to"]) == (1, 1, status.CAP)
    assert (found["runs"]["SUCCESS"], found["runs"]["FAILURE"], found["runs"]["PENDING"]) == (2, 2, 0)


def test_it_exits_with_1_when_blind_and_says_why(database: str, use_sources: UseSources) -> None:
    use_sources(FakeSource(holding=waiting(214)), FakeSource(name="spool", error=OSError("no such folder")))
    found = json.loads(stats("--json", code=1))

    assert [(reason["code"], reason["source"]) for reason in found["blind"]] == [
        ("nobody_drains", "redis"),
        ("unreachable", "spool"),
    ]
    assert found["sources"][1] == {"name": "spool", "reachable": False, "error": "OSError: no such folder"}
    assert "The recorder is blind.\n  214 events wait in the redis journal" in stats(code=1)


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_plain_text_is_english_everywhere(
    database: str, use_sources: UseSources, settings: Settings, language: str
) -> None:
    settings.LANGUAGE_CODE = language
    use_sources(FakeSource(holding=waiting(5, seconds=2, holder="shop-1 7")))
    RecorderFactory(applied=7)
    TaskRunFactory(failed=True)

    lines = stats().splitlines()
    assert lines[:2] == ["The recorder is seeing.", "Journal: redis localhost:6379/1"]
    assert "5 events wait, 3500 of 268435456 bytes, lag 2." in lines[2]
    assert "  redis: 7 applied, 0 quarantined, 0 dropped, drained by shop-1 4711" in lines[3]
    assert lines[4:] == ["Quarantine: 0", "Open dead letters: 0", "Runs: FAILURE 1"]


def test_the_direct_journal_and_empty_tables_are_fine(database: str, use_sources: UseSources) -> None:
    use_sources()

    assert stats().splitlines() == [
        "The recorder is seeing.",
        "Journal: direct",
        "Quarantine: 0",
        "Open dead letters: 0",
        "Runs: none",
    ]


def test_counts_stop_at_the_cap_and_write_nothing(
    database: str, use_sources: UseSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sources()
    monkeypatch.setattr(status, "CAP", 2)
    TaskRunFactory.create_batch(4)
    with CaptureQueriesContext(connections[database]) as captured:
        assert "Runs: PENDING 2+" in stats()

    statements = [query["sql"] for query in captured if "SAVEPOINT" not in query["sql"]]
    assert all(statement.startswith("SELECT") for statement in statements)
    assert all("LIMIT" in statement for statement in statements)


@pytest.mark.django_db(transaction=True)
def test_a_database_without_the_tables_is_told_and_breaks_nothing(database: str, use_sources: UseSources) -> None:
    use_sources()
    renamed = [("taskops_taskrun", "taskops_away"), ("taskops_recorder", "taskops_gone")]
    with connections[database].cursor() as cursor:
        for name, away in renamed:
            cursor.execute(f"ALTER TABLE {name} RENAME TO {away}")
    try:
        found = json.loads(stats("--json", code=1))
    finally:
        with connections[database].cursor() as cursor:
            for name, away in renamed:
                cursor.execute(f"ALTER TABLE {away} RENAME TO {name}")

    assert [reason["code"] for reason in found["blind"]] == ["not_migrated"]
    assert (found["runs"], found["open_letters"]) == ({}, None)


def test_the_help_names_the_exit_codes() -> None:
    assert "Exit code 0" in taskops_stats.Command.help
    assert "1: the recorder is blind" in taskops_stats.Command.help
