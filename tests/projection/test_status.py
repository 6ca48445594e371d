"""How the recorder is doing: what counts as blind, and what it costs to ask."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from django_taskops import journal
from django_taskops.journal.base import Backlog
from django_taskops.models import OutboxEntry, OutboxKind
from django_taskops.projection import status
from django_taskops.projection.status import read_status, recent_status
from tests.factories import OutboxEntryFactory, QuarantinedEntryFactory, RecorderFactory
from tests.sources import FakeSource, UseSources, waiting


def codes() -> list[str]:
    return [reason.code for reason in read_status().blind]


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    status.forget()


def test_the_direct_journal_is_never_blind(database: str, use_sources: UseSources) -> None:
    use_sources()
    found = read_status()

    assert (found.journal, found.address, list(found.sources), list(found.blind)) == ("direct", "", [], [])


@pytest.mark.parametrize(
    ("seconds", "more", "expected"),
    [
        (None, {}, []),
        (30, {}, []),
        (30, {"holder": "shop-1 7"}, []),
        (300, {}, ["nobody_drains"]),
        (300, {"holder": "shop-1 7"}, ["lags"]),
        (None, {"refused": "it belongs to another database"}, ["refused"]),
        (300, {"refused": "it belongs to another database"}, ["refused"]),
        (None, {"dropped": {"started": 5}}, []),
    ],
    ids=["empty", "young", "young and held", "nobody", "held and late", "refused", "refused and late", "dropped once"],
)
def test_events_that_wait_for_a_minute_make_blind(
    database: str, use_sources: UseSources, seconds: float | None, more: dict[str, Any], expected: list[str]
) -> None:
    use_sources(FakeSource(holding=Backlog(**more) if seconds is None else waiting(seconds=seconds, **more)))

    assert codes() == expected


def test_the_sentence_says_how_many_wait_and_what_to_do(database: str, use_sources: UseSources) -> None:
    use_sources(FakeSource(holding=waiting(214)))
    (reason,) = read_status().blind

    with translation.override("en"):
        assert reason.sentence == (
            "214 events wait in the redis journal, nobody drains: start a worker or run taskops_drain."
        )
    with translation.override("zh-hans"):
        assert "214" in reason.sentence
        assert "events" not in reason.sentence


def test_the_lag_is_the_age_of_the_oldest_event_and_never_below_zero(database: str, use_sources: UseSources) -> None:
    use_sources(FakeSource(holding=waiting(seconds=30)), FakeSource(name="spool", holding=waiting(seconds=-5)))
    late, early = read_status().sources

    assert late.lag_seconds == pytest.approx(30, abs=5)
    assert early.lag_seconds == 0


def test_a_source_that_can_not_be_reached_is_blind_and_left_alone_for_a_while(
    database: str, use_sources: UseSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FakeSource(error=ConnectionError("Error 111 connecting to redis://maria:secret@redis:6379/0"))
    use_sources(source, FakeSource(name="spool"))
    assert codes() == codes() == ["unreachable"]
    assert source.asked == 1
    assert read_status().sources[0].error == "ConnectionError: Error 111 connecting to redis://redis:6379/0"

    monkeypatch.setattr(status, "SECONDS_AFTER_ERROR", 0.0)
    status.forget()
    codes()
    source.error = None
    assert codes() == []


def test_settings_that_name_no_usable_journal_make_blind(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise ValueError("Port could not be cast to integer value")

    monkeypatch.setattr(journal, "kind", fail)

    assert codes() == ["unusable"]


@pytest.mark.parametrize(
    ("payload", "age", "expected"),
    [
        ({"reason": "dropped"}, timedelta(hours=1), ["dropped"]),
        ({"reason": "dropped"}, timedelta(hours=25), []),
        ({"reason": "lag"}, timedelta(hours=1), []),
    ],
)
def test_events_dropped_within_a_day_make_blind(
    database: str, use_sources: UseSources, payload: Any, age: timedelta, expected: list[str]
) -> None:
    use_sources(FakeSource())
    OutboxEntryFactory(kind=OutboxKind.BLIND, payload=payload, created_at=timezone.now() - age)

    assert codes() == expected


def test_the_tables_are_shown_and_the_quarantine_is_no_blindness(
    database: str, use_sources: UseSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sources(FakeSource())
    monkeypatch.setattr(status, "CAP", 2)
    RecorderFactory()
    RecorderFactory(spool=True)
    QuarantinedEntryFactory.create_batch(3)
    found = read_status()

    assert [row.name.split()[0] for row in found.recorders] == ["redis", "spool"]
    assert (found.quarantined.number, found.quarantined.capped) == (2, True)
    assert list(found.blind) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("open_transaction", [False, True])
def test_missing_tables_are_told_and_break_no_transaction(
    database: str, use_sources: UseSources, *, open_transaction: bool
) -> None:
    use_sources(FakeSource())
    with connections[database].cursor() as cursor:
        cursor.execute("ALTER TABLE taskops_quarantinedentry RENAME TO taskops_away")
    try:
        if open_transaction:
            with transaction.atomic(using=database):
                assert codes() == ["not_migrated"]
                assert OutboxEntry.objects.count() == 0
        else:
            assert codes() == ["not_migrated"]
    finally:
        with connections[database].cursor() as cursor:
            cursor.execute("ALTER TABLE taskops_away RENAME TO taskops_quarantinedentry")


def test_it_costs_three_queries_writes_nothing_and_is_kept_for_two_seconds(
    database: str, use_sources: UseSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FakeSource(holding=waiting())
    use_sources(source)
    with CaptureQueriesContext(connections[database]) as captured:
        recent_status()
        recent_status()

    assert [query["sql"].split()[0] for query in captured if "SAVEPOINT" not in query["sql"]] == ["SELECT"] * 3
    assert source.asked == 1

    monkeypatch.setattr(status, "FRESH_SECONDS", 0.0)
    read_status()
    recent_status()
    assert source.asked == 3
