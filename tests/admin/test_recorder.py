"""The page of the recorder, the line above all pages, and draining by hand."""

from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver, reverse
from pytest_django import Settings

from django_taskops.admin import recorder
from django_taskops.admin.recorder.words import KINDS, TONES
from django_taskops.events import Beat, Chord, EventKind
from django_taskops.journal.base import Backlog
from django_taskops.journal.codec import encode
from django_taskops.models import QuarantinedEntry, Recorder
from django_taskops.projection import service, status
from django_taskops.projection.blindness import Blindness
from django_taskops.projection.drain import Drained
from django_taskops.projection.status import Status
from tests.admin.conftest import VIEWER, LogIn
from tests.admin.pages import Page, content
from tests.events import Story
from tests.factories import (
    AuditEntryFactory,
    DeadLetterFactory,
    OutboxEntryFactory,
    QuarantinedEntryFactory,
    RecorderFactory,
)
from tests.sources import FakeSource, UseSources, entries, waiting

EVERY_VIEW = (*VIEWER, "view_recorder", "view_quarantinedentry")


def panel() -> str:
    return reverse("admin:taskops_recorder_changelist")


def drain() -> str:
    return reverse("admin:taskops_recorder_drain")


def every_page() -> list[str]:
    """One of each kind of page on which something of ours stands."""
    letter, entry, quarantined = DeadLetterFactory(), AuditEntryFactory(), QuarantinedEntryFactory()
    rows = {"taskrun": letter.run, "deadletter": letter, "auditentry": entry, "quarantinedentry": quarantined}
    return [
        *(reverse(f"admin:taskops_{model}_changelist") for model in rows),
        *(reverse(f"admin:taskops_{model}_change", args=[row.pk]) for model, row in rows.items()),
        *(reverse(f"admin:taskops_{model}_history", args=[row.pk]) for model, row in rows.items()),
        *(reverse(f"admin:taskops_deadletter_{verb}") + f"?letter={letter.pk}" for verb in ("requeue", "discard")),
        reverse("admin:taskops_quarantinedentry_delete", args=[quarantined.pk]),
        reverse("admin:app_list", args=["taskops"]),
        panel(),
    ]


def test_every_page_says_in_red_that_the_recorder_is_blind(desk: Client, use_sources: UseSources) -> None:
    pages = every_page()
    use_sources(FakeSource(holding=waiting(214)))

    for address in pages:
        text = Page(desk.get(address)).text
        assert "The recorder is blind. 214 events wait in the redis journal, nobody drains" in text, address
    asked = {"action": "delete_selected", "_selected_action": QuarantinedEntry.objects.get().pk, "index": "0"}
    confirmation = Page(desk.post(reverse("admin:taskops_quarantinedentry_changelist"), asked)).text
    assert "The recorder is blind." in confirmation
    assert "Are you sure" in confirmation


def test_every_page_says_that_something_is_in_the_quarantine(desk: Client, use_sources: UseSources) -> None:
    pages = every_page()
    use_sources(FakeSource())

    for address in pages:
        page = content(desk.get(address))
        assert "taskops-banner--warning" in page, address
        assert "taskops-banner--bad" not in page


def test_no_page_says_anything_where_all_is_well(desk: Client, use_sources: UseSources) -> None:
    pages = every_page()
    QuarantinedEntry.objects.all().delete()
    use_sources(FakeSource(holding=waiting(5, seconds=1, holder="shop-1 7")))

    assert [page for page in pages if "taskops-banner" in content(desk.get(page))] == []


def test_the_banner_links_only_to_what_the_reader_may_see(log_in: LogIn, use_sources: UseSources) -> None:
    use_sources(FakeSource(holding=waiting()))
    letters = reverse("admin:taskops_deadletter_changelist")
    unaware = Page(log_in("view_deadletter").get(letters))
    aware = Page(log_in("view_deadletter", "view_recorder", name="otto").get(letters))

    assert "The recorder is blind." in unaware.text
    assert panel() not in unaware.links()
    assert panel() in aware.links()


def test_the_banner_of_many_pages_asks_the_journal_once(desk: Client, use_sources: UseSources) -> None:
    source = FakeSource(holding=waiting())
    use_sources(source)
    for _ in range(3):
        desk.get(reverse("admin:taskops_deadletter_changelist"))

    assert source.asked == 1


def test_no_page_writes_anything(log_in: LogIn, database: str, use_sources: UseSources) -> None:
    pages = every_page()
    RecorderFactory()
    OutboxEntryFactory()
    use_sources(FakeSource(holding=waiting(newest=entries(encode(Story().published())))))
    client = log_in(
        *EVERY_VIEW, "change_recorder", "change_quarantinedentry", "delete_quarantinedentry",
        "requeue_deadletter", "discard_deadletter", "view_payload",
    )  # fmt: skip
    for address in pages:
        status.forget()
        with CaptureQueriesContext(connections[database]) as ours, CaptureQueriesContext(connections["default"]) as own:
            assert client.get(address).status_code == 200, address
        statements = {query["sql"].split()[0] for query in (*ours, *own)}
        assert statements <= {"SELECT", "SAVEPOINT", "RELEASE", "WITH"}, (address, statements)


def test_being_staff_shows_nothing(log_in: LogIn) -> None:
    client = log_in(*VIEWER, "view_quarantinedentry")

    assert client.get(panel()).status_code == 403
    assert client.post(drain()).status_code == 403


def test_the_page_is_all_there_is_of_a_recorder() -> None:
    names = {pattern.name for pattern in site.get_model_admin(Recorder).get_urls()}

    assert names == {"taskops_recorder_changelist", "taskops_recorder_drain"}


def test_the_page_shows_what_waits_and_what_was_lost(desk: Client, use_sources: UseSources) -> None:
    story = Story("task-1", name="shop.tasks.price")
    newest = entries(encode(story.failed()), b'{"kind":"publ')
    use_sources(
        FakeSource(
            holding=waiting(1214, seconds=5, holder="shop-1 4711", dropped={"started": 12, "x": 3}, newest=newest)
        ),
        FakeSource(name="spool"),
    )
    RecorderFactory(name="redis", applied=1_234_567, dropped=15)
    RecorderFactory(spool=True, silent=True)
    text = Page(desk.get(panel())).text

    for words in (
        "seeing Journal: Redis localhost:6379/1",
        "Events that wait 1,214 829.9 KB of 256.0 MB",
        "Drained by shop-1 4711",
        "Dropped 15 started 12, x 3",
        "failed shop.tasks.price",
        "task-1",
        "unreadable This entry is no event that this version can read.",
        "Files of this host",
        "Nothing waits: all that was recorded is in the database.",
        "Empty: every entry could be applied.",
        "redis at work",
        "1,234,567",
        "silent",
        "2 files, 4.0 KB",
    ):
        assert words in text, (words, text)


def test_the_page_of_the_direct_journal_says_that_nothing_can_wait(desk: Client) -> None:
    page = desk.get(panel())

    assert "There is no journal in between" in Page(page).text
    assert drain() not in content(page)


def test_the_page_says_why_a_journal_can_not_be_reached_or_drained(desk: Client, use_sources: UseSources) -> None:
    use_sources(
        FakeSource(error=ConnectionError("Connection refused")),
        FakeSource(name="spool", holding=Backlog(refused="it belongs to another database (a, this one is b)")),
    )
    text = Page(desk.get(panel())).text

    assert "be reached. ConnectionError: Connection refused" in text
    assert "it belongs to another database (a, this one is b)" in text


def test_the_page_opens_before_the_migration(desk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    found = status.read_status()
    before = Status(at=found.at, journal="direct", address="", blind=[Blindness(code="not_migrated")])
    monkeypatch.setattr(status, "_recent", {alias: (float("inf"), before) for alias in connections})

    response = desk.get(reverse("admin:taskops_quarantinedentry_changelist"))
    assert response.status_code == 302
    assert response["Location"] == panel()


def test_an_instant_beyond_the_calendar_breaks_no_page(
    desk: Client, use_sources: UseSources, settings: Settings
) -> None:
    line = encode(Story().started()).replace(b"2026-01-01", b"0001-01-01")
    use_sources(FakeSource(holding=waiting(newest=entries(line))))

    settings.TIME_ZONE = "America/New_York"
    assert "unreadable" in Page(desk.get(panel())).text


def test_every_kind_of_event_has_a_word() -> None:
    assert set(KINDS) == {*EventKind, Beat.kind, Chord.kind}
    assert set(TONES) <= set(KINDS)


def test_drain_now_needs_its_permission_and_a_posted_form(
    log_in: LogIn, use_sources: UseSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sources(FakeSource())
    called: list[float] = []

    def drain_nothing(_sources: Any, seconds: float) -> list[Drained]:
        called.append(seconds)
        return []

    monkeypatch.setattr(service, "drain_once", drain_nothing)
    viewer, drainer = log_in("view_recorder"), log_in("view_recorder", "change_recorder", name="otto")

    assert drain() not in content(viewer.get(panel()))
    assert viewer.post(drain()).status_code == 403
    assert drain() in content(drainer.get(panel()))
    assert drainer.get(drain()).status_code == 405
    forger = Client(enforce_csrf_checks=True)
    forger.force_login(User.objects.get(username="otto"))
    assert forger.post(drain()).status_code == 403
    assert called == []
    assert drainer.post(drain()).status_code == 302
    assert called == [recorder.DRAIN_SECONDS]


@pytest.mark.parametrize(
    ("backlog", "done", "expected"),
    [
        (Backlog(), [Drained(source="redis", applied=214)], ["214 events were applied."]),
        (Backlog(), [Drained(source="redis")], ["0 events were applied."]),
        (
            Backlog(),
            [Drained(source="redis", applied=1, quarantined=2)],
            ["1 event was applied.", "2 entries could not be applied and lie in the quarantine."],
        ),
        (waiting(holder="w 7"), [], ["The redis journal was not drained: w 7 drains it already."]),
        (Backlog(refused="other"), [], ["The redis journal was not drained: it belongs to another database."]),
        (Backlog(), [], ["The redis journal was not drained: another process was about to. Try again."]),
    ],
    ids=["done", "nothing", "quarantined", "held", "refused", "unlucky"],
)
def test_drain_now_says_what_it_did_or_why_not(
    desk: Client,
    use_sources: UseSources,
    monkeypatch: pytest.MonkeyPatch,
    backlog: Backlog,
    done: list[Drained],
    expected: list[str],
) -> None:
    use_sources(FakeSource(holding=backlog))
    monkeypatch.setattr(service, "drain_once", lambda *_given: done)
    response = desk.post(drain(), follow=True)

    assert [str(message) for message in response.context["messages"]] == expected


def test_drain_now_of_the_direct_journal_says_that_there_is_nothing_to_drain(desk: Client) -> None:
    response = desk.post(drain(), follow=True)

    assert [str(message) for message in response.context["messages"]] == [
        "There is nothing to drain: each event is written to the database at once."
    ]


def test_drain_now_that_fails_is_told_and_logged(
    desk: Client, use_sources: UseSources, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_given: Any) -> None:
        raise ConnectionError("secret address")

    use_sources(FakeSource())
    monkeypatch.setattr(service, "drain_once", fail)
    response = desk.post(drain(), follow=True)

    assert [str(message) for message in response.context["messages"]] == [
        "Draining has failed: ConnectionError. The log has more."
    ]
    assert "secret address" in caplog.text


def test_draining_and_applying_again_happen_outside_the_transaction_of_the_request() -> None:
    for name in ("taskops_recorder_drain", "taskops_quarantinedentry_changelist"):
        args: list[Any] = []
        view = get_resolver().resolve(reverse(f"admin:{name}", args=args)).func
        assert set(connections) <= view._non_atomic_requests, name  # type: ignore[attr-defined]
