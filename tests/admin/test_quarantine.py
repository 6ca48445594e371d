"""The quarantine: who sees what of an entry, and how it is applied again or given up."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from django_taskops.admin.recorder import entry as recorder_entry
from django_taskops.admin.recorder.entry import MAX_BYTES, as_text
from django_taskops.models import AuditEntry, QuarantinedEntry, TaskRun
from django_taskops.projection import service
from tests.admin.conftest import LogIn
from tests.admin.pages import Page, content
from tests.factories import QuarantinedEntryFactory, TaskRunFactory

SECRET = "the payload"


def listed() -> str:
    return reverse("admin:taskops_quarantinedentry_changelist")


def page_of(entry: QuarantinedEntry) -> str:
    return reverse("admin:taskops_quarantinedentry_change", args=[entry.pk])


def chosen(action: str, *entries: QuarantinedEntry, **more: str) -> dict[str, Any]:
    return {"action": action, "index": "0", "_selected_action": [entry.pk for entry in entries], **more}


def said(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def test_being_staff_shows_nothing(log_in: LogIn) -> None:
    entry = QuarantinedEntryFactory()
    client = log_in("view_recorder", "delete_quarantinedentry", "view_payload")

    assert client.get(listed()).status_code == 403
    assert client.get(page_of(entry)).status_code == 403
    assert client.post(listed(), chosen("apply_again", entry)).status_code == 403
    assert client.post(reverse("admin:taskops_quarantinedentry_delete", args=[entry.pk])).status_code == 403


def test_the_bytes_and_the_rest_of_the_error_are_for_those_who_may_see_payloads(log_in: LogIn) -> None:
    entry = QuarantinedEntryFactory(data=f'["{SECRET}"]'.encode(), error=f"DataError: got {SECRET}")
    unaware, aware = log_in("view_quarantinedentry"), log_in("view_quarantinedentry", "view_payload", name="otto")

    for address in (listed(), page_of(entry)):
        assert SECRET not in content(unaware.get(address))
        assert "DataError" in content(unaware.get(address))
        assert SECRET in content(aware.get(address))
    assert "taskops.view_payload" in content(unaware.get(page_of(entry)))


def test_a_page_tells_what_can_be_read_of_the_entry(desk: Client) -> None:
    entry = QuarantinedEntryFactory()
    run = TaskRunFactory(task_id=entry.task_id)
    page = Page(desk.get(page_of(entry)))

    assert "shop.tasks.price" in page.text
    assert "Eventpublished" in page.text
    assert reverse("admin:taskops_taskrun_change", args=[run.pk]) in page.links()


def test_an_entry_that_can_not_be_read_has_a_page_too(desk: Client) -> None:
    entry = QuarantinedEntryFactory(unreadable=True)

    assert '{"kind":"publ' in Page(desk.get(page_of(entry))).text
    assert "no task id" in Page(desk.get(listed())).text


def test_a_long_entry_is_cut(desk: Client) -> None:
    entry = QuarantinedEntryFactory(data=b"x" * MAX_BYTES + b"END")
    text = Page(desk.get(page_of(entry))).text

    assert "END" not in text
    assert "Only the first 10.0\xa0KB are shown." in content(desk.get(page_of(entry)))


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"", ""),
        ('{"ü": "☃"}\n'.encode(), '{"ü": "☃"}\n'),
        ("☃".encode()[:2], ""),
        (b"abc" + "☃".encode()[:2], "abc"),
        (b"\x80\x04abc.", f"000000  {'80 04 61 62 63 2e':<47}  ..abc."),
        (b"a\x00", f"000000  {'61 00':<47}  a."),
        (b"a\x1b[2J", f"000000  {'61 1b 5b 32 4a':<47}  a.[2J"),
        ("a\u202e".encode(), f"000000  {'61 e2 80 ae':<47}  a..."),
        (b"\xff" * 17, f"000000  {'ff ' * 15}ff  {'.' * 16}\n000010  {'ff':<47}  ."),
    ],
)
def test_text_is_shown_as_text_and_anything_else_in_hexadecimal(data: bytes, shown: str) -> None:
    assert as_text(data) == shown


def test_apply_again_calls_the_drain_and_counts(log_in: LogIn, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, healed = QuarantinedEntryFactory(), QuarantinedEntryFactory()
    tried: list[list[int]] = []

    def retry(pks: list[int]) -> tuple[int, int]:
        tried.append(pks)
        return 1, 1

    monkeypatch.setattr(service, "retry_quarantined", retry)
    viewer = log_in("view_quarantinedentry")
    client = log_in("view_quarantinedentry", "change_quarantinedentry", name="otto")

    assert viewer.post(listed(), chosen("apply_again", kept)).status_code == 403
    assert "Apply again" not in content(viewer.get(page_of(kept)))
    response = client.post(listed(), chosen("apply_again", kept, healed), follow=True)
    assert tried == [[kept.pk, healed.pk]]
    assert said(response) == [
        "1 entry was applied.",
        "1 entry was not applied: its error is in the list, or it is gone.",
    ]


def test_an_event_that_can_be_applied_by_now_leaves_the_quarantine(desk: Client) -> None:
    entry = QuarantinedEntryFactory()
    poison = QuarantinedEntryFactory(unreadable=True)
    response = desk.post(listed(), chosen("apply_again", entry, poison), follow=True)

    assert said(response)[0] == "1 entry was applied."
    assert list(QuarantinedEntry.objects.all()) == [poison]
    assert TaskRun.objects.filter(task_id=entry.task_id).exists()


def test_applying_again_that_fails_is_told_and_logged(
    desk: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_pks: list[int]) -> None:
        raise OSError("no room")

    monkeypatch.setattr(service, "retry_quarantined", fail)
    response = desk.post(listed(), chosen("apply_again", QuarantinedEntryFactory()), follow=True)

    assert said(response) == ["Nothing was applied: OSError. The log has more."]
    assert "no room" in caplog.text


@pytest.mark.parametrize("key", ["x", "1 OR 1=1", "9" * 30, "\x00"])
@pytest.mark.parametrize("action", ["apply_again", "delete_selected"])
def test_what_is_no_key_is_a_bad_request(desk: Client, action: str, key: str) -> None:
    asked = {"action": action, "index": "0", "_selected_action": [key]}

    assert desk.post(listed(), asked).status_code == 400


def test_discarding_asks_first_deletes_and_is_written_down(log_in: LogIn) -> None:
    entry, other = QuarantinedEntryFactory(), QuarantinedEntryFactory()
    viewer = log_in("view_quarantinedentry")
    client = log_in("view_quarantinedentry", "delete_quarantinedentry", name="otto")

    viewer.post(listed(), chosen("delete_selected", entry, post="yes"))
    assert QuarantinedEntry.objects.count() == 2
    assert "Are you sure" in Page(client.post(listed(), chosen("delete_selected", entry))).text
    assert QuarantinedEntry.objects.count() == 2
    client.post(listed(), chosen("delete_selected", entry, post="yes"))
    assert list(QuarantinedEntry.objects.all()) == [other]
    client.post(reverse("admin:taskops_quarantinedentry_delete", args=[other.pk]), {"post": "yes"})
    assert not QuarantinedEntry.objects.exists()

    audited = AuditEntry.objects.order_by("pk").values_list("action", "user_name", "object_type", "task_id", "outcome")
    assert list(audited) == [
        ("discard", "otto", "quarantined_entry", entry.task_id, "deleted"),
        ("discard", "otto", "quarantined_entry", other.task_id, "deleted"),
    ]


def test_nobody_adds_or_changes(desk: Client) -> None:
    entry = QuarantinedEntryFactory()

    assert desk.get(reverse("admin:taskops_quarantinedentry_add")).status_code == 403
    assert desk.post(page_of(entry), {"error": "x"}).status_code == 403


def test_the_list_reads_no_bytes_and_finds_a_task_id(desk: Client) -> None:
    entry = QuarantinedEntryFactory()
    QuarantinedEntryFactory()
    response = desk.get(listed(), {"q": entry.task_id})
    (found,) = response.context["cl"].result_list

    assert found.pk == entry.pk
    assert "data" in found.get_deferred_fields()
    assert found.bytes == len(bytes(entry.data))


def test_an_empty_quarantine_says_so(desk: Client) -> None:
    assert "Nothing is in the quarantine" in Page(desk.get(listed())).text


def test_the_kind_of_an_error_is_what_stands_before_the_colon() -> None:
    assert recorder_entry.kind_of_error(QuarantinedEntry(error="DataError: 'x'")) == "DataError"
    assert len(recorder_entry.kind_of_error(QuarantinedEntry(error="x" * 500))) <= 80
