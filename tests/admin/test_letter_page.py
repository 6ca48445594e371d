"""The page of a dead letter, and that of an audit entry."""

import re
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_taskops.models import DeadLetter
from tests.admin.conftest import LogIn
from tests.admin.pages import Page, content
from tests.admin.queries import statements
from tests.factories import AuditEntryFactory, DeadLetterFactory, TaskAttemptFactory, TaskRunFactory

VERBS = ["requeue", "discard", "restore"]


def address(letter: DeadLetter) -> str:
    return reverse("admin:taskops_deadletter_change", args=[letter.pk])


def buttons(page: Page) -> list[str]:
    return [verb for verb in VERBS if any(f"/deadletter/{verb}/?" in link for link in page.links())]


def test_it_tells_what_died_why_and_of_what_call(desk: Client) -> None:
    text = Page(desk.get(address(DeadLetterFactory(run__exhausted=True)))).text

    assert "Retries used up" in text
    assert "shop.errors.SupplierDown: 503" in text
    assert "raise SupplierDown(response.status)" in text
    assert "shop.tasks.price(42, currency='EUR')" in text


def test_the_call_needs_a_permission(log_in: LogIn) -> None:
    text = Page(log_in("view_deadletter").get(address(DeadLetterFactory()))).text

    assert "currency='EUR'" not in text
    assert "taskops.view_payload" in text


def test_an_old_letter_tells_of_its_own_attempt(desk: Client) -> None:
    run = TaskRunFactory(succeeded=True, generation=1)
    TaskAttemptFactory(run=run, failed=True, exception_message="the first time")
    letter = DeadLetterFactory(run=run, generation=0, reason="failed", resolved=True)

    assert "the first time" in Page(desk.get(address(letter))).text


PUBLISH = "0006438c1f2a3b4c5d6e7f8091a2b3c4"


@pytest.mark.parametrize(
    ("described", "is_own"),
    [
        ("", True),
        (f"{PUBLISH}/000001/00000/000000/publisher", True),
        (f"{PUBLISH}/000001/00000/000003/publisher+wire", True),
        (f"{PUBLISH}/000000/00000/000000/wire", True),
        (f"{PUBLISH}/000002/00000/000000/publisher", False),
        (f"{PUBLISH}/000010/00000/000000/wire", False),
        ("0006438c20000000000000000000000a/000000/00000/000000/wire", False),
        ("0006438c10000000000000000000000a/000000/00000/000000/wire", False),
    ],
    ids=["nothing", "send", "its retry", "send before", "requeue", "tenth requeue", "later publish", "earlier publish"],
)
def test_a_call_is_only_called_the_letters_where_it_is(desk: Client, described: str, *, is_own: bool) -> None:
    letter = DeadLetterFactory(generation=1, run__publication=PUBLISH, run__described=described, run__queue="prices")
    text = Page(desk.get(address(letter))).text

    assert ("The call, as it was sent last" in text) is not is_own
    assert ("Queue, as it was sent last" in text) is not is_own
    assert ("may have had other arguments" in text) is not is_own
    assert "prices" in text


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ({}, "Its re-run waits for a worker."),
        ({"received": True}, "A worker has received its re-run and is about to start it."),
        ({"started": True}, "Its re-run is running."),
        ({"retried": True}, "Its re-run has failed and waits for its next retry."),
        ({"succeeded": True}, "Its re-run has succeeded."),
        ({"failed": True}, "Its re-run has failed."),
        ({"generation": 0, "failed": True}, "Nothing has been heard of its re-run yet."),
        ({"publication": "0", "started": True}, "Nothing has been heard of its re-run yet."),
    ],
)
@pytest.mark.parametrize("moved", [False, True], ids=["same id", "new id"])
def test_a_requeued_letter_says_what_happens_now(
    desk: Client, run: dict[str, Any], sentence: str, *, moved: bool
) -> None:
    rerun = TaskRunFactory(**{"generation": 1, **run})
    if moved:
        sentence = "Its re-run has failed." if sentence.startswith("Nothing") and "failed" in run else sentence
        sentence = "Its re-run is running." if sentence.startswith("Nothing") else sentence
        letter = DeadLetterFactory(requeued=True, requeued_as=rerun.task_id, sent_generation=None)
    else:
        letter = DeadLetterFactory(
            run=rerun, publication=PUBLISH, generation=0, requeued=True, reason="failed", died_at=timezone.now()
        )

    assert sentence in Page(desk.get(address(letter))).text


def test_a_letter_that_was_not_requeued_says_nothing_of_a_rerun(desk: Client) -> None:
    for letter in (DeadLetterFactory(), DeadLetterFactory(discarded=True)):
        assert "re-run" not in Page(desk.get(address(letter))).text


def test_the_way_to_the_run_has_a_name(desk: Client) -> None:
    letter = DeadLetterFactory()
    page = desk.get(address(letter))
    run = reverse("admin:taskops_taskrun_change", args=[letter.run_id])

    assert f'<a href="{run}">Open the run</a>' in content(page)


def test_instants_have_a_zone(desk: Client) -> None:
    first = DeadLetterFactory(superseded=True, run__retries=1)
    letter = DeadLetterFactory(run=first.run, generation=1, previous=first)
    TaskAttemptFactory(run=letter.run, retried=True)
    AuditEntryFactory(letter=letter)
    for page in (address(letter), reverse("admin:taskops_taskrun_change", args=[letter.run_id])):
        instants = re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?P<zone> UTC)?", content(desk.get(page)))

        assert len(instants) > 3
        assert set(instants) == {" UTC"}


def test_what_no_worker_received_has_a_description(desk: Client) -> None:
    letter = DeadLetterFactory(
        run__failed=False, reason="undelivered", died_at="2026-11-20T03:00:00Z", description="lost"
    )

    assert "lost" in Page(desk.get(address(letter))).text


@pytest.mark.parametrize(
    ("traits", "possible"),
    [
        ({}, ["requeue", "discard"]),
        ({"without_envelope": True}, ["discard"]),
        ({"requeued": True}, []),
        ({"resolved": True}, []),
        ({"superseded": True}, []),
        ({"discarded": True}, ["restore"]),
    ],
    ids=["open", "without envelope", "requeued", "resolved", "superseded", "discarded"],
)
def test_buttons_are_for_what_is_possible_now(desk: Client, traits: dict[str, bool], possible: list[str]) -> None:
    assert buttons(Page(desk.get(address(DeadLetterFactory(**traits))))) == possible


@pytest.mark.parametrize("verb", VERBS)
def test_buttons_are_for_what_is_permitted(log_in: LogIn, verb: str) -> None:
    client = log_in("view_deadletter", f"{verb}_deadletter")
    found = [
        *buttons(Page(client.get(address(DeadLetterFactory())))),
        *buttons(Page(client.get(address(DeadLetterFactory(discarded=True))))),
    ]

    assert found == [verb]


def test_it_says_why_it_can_not_be_run_again(desk: Client) -> None:
    text = Page(desk.get(address(DeadLetterFactory(without_envelope=True)))).text

    assert "not re-runnable: payload of 300000 bytes exceeds the limit of 262144" in text


def test_the_letters_before_and_after_are_linked(desk: Client) -> None:
    first = DeadLetterFactory(superseded=True)
    second = DeadLetterFactory(run=first.run, generation=1, previous=first, superseded=True)
    third = DeadLetterFactory(run=first.run, generation=2, previous=second)
    links = Page(desk.get(address(second))).links()

    assert address(first) in links
    assert address(third) in links


def test_the_run_under_a_new_id_is_linked(desk: Client) -> None:
    moved = TaskRunFactory()
    letter = DeadLetterFactory(resolved=True, requeued_as=moved.task_id)

    assert reverse("admin:taskops_taskrun_change", args=[moved.pk]) in Page(desk.get(address(letter))).links()


def test_decisions_are_shown_with_who_and_why(desk: Client) -> None:
    letter = DeadLetterFactory(discarded=True)
    AuditEntryFactory(letter=letter)
    text = Page(desk.get(address(letter))).text

    assert "by maria" in text
    assert "the supplier has cancelled the order" in text


def test_the_page_costs_the_same_whatever_has_been_decided(desk: Client, database: str) -> None:
    def queries(letter: DeadLetter) -> int:
        with CaptureQueriesContext(connections[database]) as captured:
            assert desk.get(address(letter)).status_code == 200
        return len(statements(captured))

    plain, busy = DeadLetterFactory(), DeadLetterFactory()
    AuditEntryFactory.create_batch(20, letter=busy)
    DeadLetterFactory(run=busy.run, generation=1, previous=busy)

    assert queries(plain) == queries(busy)


def test_an_audit_entry_leads_to_its_letter(desk: Client) -> None:
    letter = DeadLetterFactory(discarded=True)
    entry = AuditEntryFactory(letter=letter, details={"generation": 3})
    page = Page(desk.get(reverse("admin:taskops_auditentry_change", args=[entry.pk])))

    assert address(letter) in page.links()
    assert "Generation3" in page.text


def test_an_audit_entry_outlives_its_letter(desk: Client) -> None:
    entry = AuditEntryFactory(object_id="404")

    assert desk.get(reverse("admin:taskops_auditentry_change", args=[entry.pk])).status_code == 200
