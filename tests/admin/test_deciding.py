"""Requeue, discard and restore: asked for on the list or the page, reviewed, then carried out one by one."""

from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.handlers.base import BaseHandler
from django.db import OperationalError, connections
from django.test import Client
from django.urls import resolve, reverse
from pytest_django import Settings

from django_taskops import recovery
from django_taskops.admin import DeadLetterAdmin, bulk, verbs
from django_taskops.exceptions import NotRequeueable
from django_taskops.models import AuditAction, AuditEntry, DeadLetter, TaskRun
from django_taskops.recovery import Decision
from django_taskops.states import LetterStatus
from tests.admin.conftest import LogIn
from tests.admin.pages import Page, content
from tests.factories import DeadLetterFactory
from tests.workers import BrokerQueue

LIST = "admin:taskops_deadletter_changelist"
VERBS = ["requeue", "discard", "restore"]


def address(verb: str) -> str:
    return reverse(f"admin:taskops_deadletter_{verb}")


def ask(client: Client, verb: str, letters: list[DeadLetter], **more: Any) -> Any:
    """Ticks the letters on the list and runs the action."""
    return client.post(reverse(LIST), {"action": verb, "_selected_action": [letter.pk for letter in letters], **more})


def send(client: Client, verb: str, letters: list[DeadLetter], why: str = "I know why", **more: Any) -> Any:
    """Submits the confirmation."""
    chosen = {"letter": [letter.pk for letter in letters], "why": why, **more}
    return client.post(address(verb), chosen, follow=True)


def statuses(*letters: DeadLetter) -> list[str]:
    for letter in letters:
        letter.refresh_from_db()
    return [letter.status for letter in letters]


def said(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def test_an_action_asks_before_it_does_anything(desk: Client) -> None:
    letters = [DeadLetterFactory(), DeadLetterFactory(without_envelope=True), DeadLetterFactory(resolved=True)]
    page = Page(ask(desk, "requeue", letters))

    assert "3 dead letters selected." in page.text
    assert "1 task will be sent again." in page.text
    assert "1 will be skipped: not re-runnable: payload of 300000 bytes exceeds the limit of 262144." in page.text
    assert "1 will be skipped: it is “Resolved”, not “Open”." in page.text
    assert page.hidden("letter") == [str(letter.pk) for letter in letters]
    assert statuses(*letters) == ["open", "open", "resolved"]
    assert not AuditEntry.objects.exists()


def test_the_same_question_is_asked_from_the_page_of_a_letter(desk: Client) -> None:
    letter = DeadLetterFactory()
    (button,) = [
        link
        for link in Page(desk.get(reverse("admin:taskops_deadletter_change", args=[letter.pk]))).links()
        if link.startswith(address("discard"))
    ]
    page = Page(desk.get(button))

    assert "1 dead letter selected." in page.text
    assert page.hidden("letter") == [str(letter.pk)]
    assert "/change/" in send(desk, "discard", [letter], back=letter.pk).redirect_chain[0][0]


def test_a_discard_is_written_down_with_its_reason(desk: Client) -> None:
    letters = [DeadLetterFactory(), DeadLetterFactory()]
    response = send(desk, "discard", letters, why="order cancelled")

    assert statuses(*letters) == ["discarded", "discarded"]
    assert said(response) == ["2 dead letters were discarded."]
    assert {(entry.user_name, entry.why) for entry in AuditEntry.objects.all()} == {("root", "order cancelled")}
    logged = LogEntry.objects.filter(action_flag=CHANGE)
    assert {entry.object_id for entry in logged} == {str(letter.pk) for letter in letters}
    assert {entry.change_message for entry in logged} == {"Discard: order cancelled"}


@pytest.mark.parametrize("why", ["", "   ", "nul \x00", "x" * 1001], ids=["empty", "blank", "nul", "long"])
def test_a_discard_without_a_usable_reason_is_asked_again(desk: Client, why: str) -> None:
    letter = DeadLetterFactory()
    response = send(desk, "discard", [letter], why=why)

    assert response.status_code == 200
    assert Page(response).hidden("letter") == [str(letter.pk)]
    assert Page(response).all("ul")
    assert "errorlist" in response.content.decode()
    assert statuses(letter) == ["open"]


def test_a_restore_needs_no_reason(desk: Client) -> None:
    letter = DeadLetterFactory(discarded=True)
    response = send(desk, "restore", [letter], why="")

    assert said(response) == ["1 dead letter was restored."]
    assert statuses(letter) == ["open"]


def test_a_requeue_sends_once_however_often_the_form_is_sent(desk: Client, queue: BrokerQueue) -> None:
    letter = DeadLetterFactory()
    first = send(desk, "requeue", [letter], why="")
    second = send(desk, "requeue", [letter], why="")

    assert said(first) == ["1 dead letter was requeued."]
    assert said(second) == [
        "0 dead letters were requeued. 1 was not.",
        "1 was skipped: already taken: it is “Requeued” by now",
    ]
    assert statuses(letter) == ["requeued"]
    assert TaskRun.objects.get(pk=letter.run_id).generation == 1
    assert AuditEntry.objects.filter(action="requeue").count() == LogEntry.objects.count() == 1


def test_one_refusal_never_stops_the_rest(desk: Client, queue: BrokerQueue) -> None:
    letters = [
        DeadLetterFactory(),
        DeadLetterFactory(without_envelope=True),
        DeadLetterFactory(resolved=True),
        DeadLetterFactory(envelope=b"nonsense"),
        DeadLetterFactory(),
    ]
    gone = DeadLetter(pk=10**9)
    lines = said(send(desk, "requeue", [*letters, gone]))

    assert lines[0] == "2 dead letters were requeued. 4 were not."
    assert len(lines) == 5
    assert statuses(*letters) == ["requeued", "open", "resolved", "open", "requeued"]


def test_an_error_that_nobody_expected_never_stops_the_rest(database: str) -> None:
    def break_for_the_first(letter: DeadLetter, by: Any, why: str) -> Decision:
        if letter.pk == letters[0].pk:
            raise OperationalError("the database went away <b>")
        return discard(letter, by, why)

    logged: list[DeadLetter] = []
    letters = [DeadLetterFactory(), DeadLetterFactory()]
    discard = verbs.DISCARD.carry_out
    outcome = bulk.carry_out(
        replace(verbs.DISCARD, carry_out=break_for_the_first),
        letters,
        None,
        "why",
        logged.append,
    )

    assert outcome.done == logged == [letters[1]]
    assert "the database went away" in outcome.reasons(bulk.Verdict.REFUSED)[0][0]


def test_a_log_entry_that_can_not_be_written_stops_nothing(
    desk: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unwritable(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("the log is full")

    monkeypatch.setattr(DeadLetterAdmin, "log_change", unwritable)
    letters = [DeadLetterFactory(), DeadLetterFactory()]

    assert said(send(desk, "discard", letters)) == ["2 dead letters were discarded."]
    assert statuses(*letters) == ["discarded", "discarded"]
    assert caplog.text.count("log entry for dead letter") == 2


def failing(monkeypatch: pytest.MonkeyPatch, *errors: Exception | None) -> list[DeadLetter]:
    """Requeues that end like this one after the other, None as Decision; the letters that were tried, as they come."""
    tried: list[DeadLetter] = []

    def requeue(letter: DeadLetter, **options: Any) -> Decision:
        error = errors[len(tried)]
        tried.append(letter)
        if error is not None:
            raise error
        return decided(letter, "sent")

    monkeypatch.setattr(recovery, "requeue", requeue)
    return tried


def decided(letter: DeadLetter, outcome: str) -> Decision:
    return Decision(
        action=AuditAction.REQUEUE,
        dead_letter_id=letter.pk,
        task_id=letter.task_id,
        generation=letter.generation,
        outcome=outcome,
    )


def test_a_bulk_ends_where_the_broker_is_down(desk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, None, NotRequeueable("not_sent", "the broker did not take the message"))
    letters = DeadLetterFactory.create_batch(5)

    assert said(send(desk, "requeue", letters)) == [
        "1 dead letter was requeued. 4 were not.",
        "1 was skipped: the broker did not take the message",
        "3 were not tried, because the broker is not reachable.",
    ]
    assert tried == letters[:2]


def test_what_may_have_been_sent_is_not_called_refused(desk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = OperationalError("the database went away")
    failing(monkeypatch, NotRequeueable("not_confirmed", "the broker did not answer"), lost, None)
    lines = said(send(desk, "requeue", DeadLetterFactory.create_batch(3)))

    assert lines == [
        "1 dead letter was requeued. 2 are not confirmed.",
        "1 is not confirmed, it may have been sent: the broker did not answer",
        f"1 is not confirmed, it may have been sent: unexpected: {lost!r}; the log has more",
    ]


def test_what_was_sent_without_a_note_counts_as_requeued(desk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "requeue", lambda letter, **_options: decided(letter, "sent, not confirmed"))

    assert said(send(desk, "requeue", [DeadLetterFactory()])) == [
        "1 dead letter was requeued.",
        "1 of them was sent, but the database did not take the note of it.",
    ]


def test_letters_of_the_same_task_are_told_apart(desk: Client) -> None:
    letters = [
        DeadLetterFactory(run__args=["WEB-1004"], run__kwargs={}, run__exception_message="no price for a lamp"),
        DeadLetterFactory(run__args=["WEB-1005"], run__kwargs={}, run__exception_message="x" * 1000),
    ]
    text = Page(ask(desk, "requeue", letters)).text

    assert "('WEB-1004')" in text
    assert "('WEB-1005')" in text
    assert "no price for a lamp" in text
    assert "x" * 250 not in text


def test_a_call_of_another_send_is_not_taken_for_the_letters(desk: Client) -> None:
    letter = DeadLetterFactory(run__described="0006ffff/000000/000/000000/1", run__args=["of the other send"])

    assert "of the other send" not in content(ask(desk, "requeue", [letter]))


def test_what_is_special_about_a_requeue_is_said_beforehand(desk: Client) -> None:
    expired = DeadLetterFactory(run__failed=False, run__expired=True)
    refused = DeadLetterFactory(run__failed=False, run__expired=True, without_envelope=True)
    response = ask(desk, "requeue", [expired, DeadLetterFactory(), refused])
    first, second, third = response.context["review"].rows

    assert first.notes
    assert not second.notes
    assert not third.notes
    assert Page(response).text.count(first.notes[0]) == 1
    assert first.notes[0] in Page(desk.get(reverse("admin:taskops_deadletter_change", args=[expired.pk]))).text
    assert not ask(desk, "discard", [expired]).context["review"].rows[0].notes


@pytest.mark.parametrize("verb", VERBS)
def test_an_action_that_is_not_permitted_is_neither_shown_nor_executable(log_in: LogIn, verb: str) -> None:
    letter = DeadLetterFactory(discarded=verb == "restore")
    before = statuses(letter)
    others = [f"{other}_deadletter" for other in VERBS if other != verb]
    client = log_in("view_deadletter", *others)
    offered = {attrs.get("value") for attrs in Page(client.get(reverse(LIST), {"status": "all"})).all("option")}

    assert offered == {"", *VERBS} - {verb}
    assert ask(client, verb, [letter]).status_code == 403
    assert ask(client, verb, [letter], index="0").status_code == 403
    assert client.get(address(verb), {"letter": letter.pk}).status_code == 403
    assert send(client, verb, [letter]).status_code == 403
    assert statuses(letter) == before


@pytest.mark.parametrize("verb", VERBS)
def test_who_sees_no_letters_decides_on_none(log_in: LogIn, verb: str) -> None:
    letter = DeadLetterFactory(discarded=verb == "restore")
    client = log_in("view_taskrun", f"{verb}_deadletter")

    assert ask(client, verb, [letter]).status_code == 403
    assert send(client, verb, [letter]).status_code == 403


@pytest.mark.parametrize("verb", VERBS)
def test_strangers_are_sent_to_the_login(database: str, verb: str) -> None:
    response = Client().post(address(verb), {"letter": 1, "why": "x"})

    assert response.status_code == 302
    assert "/login/" in response["Location"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_form_without_its_token_is_refused(desk: Client, verb: str) -> None:
    desk.handler.enforce_csrf_checks = True

    assert desk.post(address(verb), {"letter": 1, "why": "x"}).status_code == 403


@pytest.mark.parametrize("given", [[], ["x"], ["-1"], ["\u0661"], ["9" * 30], ["1.0", "%00", "\x00"]])
def test_a_choice_of_nothing_changes_nothing(desk: Client, given: list[str]) -> None:
    for response in (
        desk.post(address("discard"), {"letter": given, "why": "x"}, follow=True),
        desk.get(address("discard"), {"letter": given}, follow=True),
        desk.post(reverse(LIST), {"action": "discard", "_selected_action": given or ["x"]}, follow=True),
    ):
        assert response.status_code == 200
        assert said(response) == ["No dead letter was chosen. Nothing was changed."]


def test_more_than_a_hundred_at_once_are_refused(desk: Client) -> None:
    first = DeadLetterFactory()
    letters = [DeadLetterFactory(run=first.run, generation=number) for number in range(1, 101)]
    too_many = ["Choose at most 100 dead letters at a time. Nothing was changed."]

    assert said(desk.get(ask(desk, "discard", [first, *letters])["Location"])) == too_many
    assert said(desk.get(ask(desk, "discard", letters, select_across="1")["Location"])) == too_many
    assert said(send(desk, "discard", [first, *letters])) == too_many
    assert not DeadLetter.objects.exclude(status=LetterStatus.OPEN).exists()
    assert said(send(desk, "discard", letters)) == ["100 dead letters were discarded."]


def test_what_was_ticked_counts_whatever_the_list_shows_by_now(desk: Client) -> None:
    """The list shows open letters; one of those that were ticked has been resolved since."""
    letters = [DeadLetterFactory(), DeadLetterFactory(resolved=True)]

    assert Page(ask(desk, "discard", letters)).hidden("letter") == [str(letter.pk) for letter in letters]


def test_the_list_comes_back_as_it_was(desk: Client) -> None:
    letter = DeadLetterFactory()
    asked = desk.post(f"{reverse(LIST)}?reason=failed&q=price", {"action": "discard", "_selected_action": [letter.pk]})
    (form,) = [form for form in Page(asked).all("form") if "/discard/" in (form.get("action") or "")]
    response = desk.post(form["action"] or "", {"letter": letter.pk, "why": "x"})

    assert response["Location"].startswith(reverse(LIST))
    assert "reason=failed" in response["Location"]
    assert "q=price" in response["Location"]


def test_keys_stay_plain_where_numbers_are_grouped(desk: Client, settings: Settings) -> None:
    settings.USE_THOUSAND_SEPARATOR = True
    letter = DeadLetterFactory(pk=1234567, run__pid=98765)
    page = Page(desk.get(address("discard"), {"letter": letter.pk, "back": letter.pk}))
    run_page = Page(desk.get(reverse("admin:taskops_taskrun_change", args=[letter.run_id])))

    assert page.hidden("letter") == page.hidden("back") == ["1234567"]
    assert "98765" in run_page.text
    assert reverse("admin:taskops_deadletter_change", args=[1234567]) in run_page.links()


@pytest.mark.parametrize("verb", VERBS)
def test_a_decision_is_outside_the_transaction_of_the_request(
    desk: Client, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for alias in django_settings.DATABASES:
        monkeypatch.setitem(connections[alias].settings_dict, "ATOMIC_REQUESTS", True)
    view = resolve(address(verb)).func

    assert BaseHandler().make_view_atomic(view) is view


def test_reviewing_costs_the_same_for_any_number_of_letters(
    desk: Client, database: str, django_assert_max_num_queries: Any
) -> None:
    letters = DeadLetterFactory.create_batch(25) + DeadLetterFactory.create_batch(
        5, run__failed=False, run__expired=True
    )
    ask(desk, "requeue", letters)
    with django_assert_max_num_queries(4, connection=connections["sqlite"]):
        response = ask(desk, "requeue", letters)

    assert len(Page(response).all("details")) == 1
