"""Requeue, discard and restore: asked for on the list or the page, reviewed, then carried out one by one."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.handlers.base import BaseHandler
from django.db import OperationalError, connections
from django.test import Client
from django.urls import resolve, reverse
from pytest_django import Settings

from django_taskops.admin import DeadLetterAdmin
from django_taskops.exceptions import AlreadyTaken, NotRequeueable, TaskOpsError
from django_taskops.models import AuditAction, AuditEntry, DeadLetter, TaskRun
from django_taskops.recovery import Decision, decide, intents, many, workers
from django_taskops.recovery.broker import Publisher, Unreachable
from django_taskops.recovery.intents import Order
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


def test_an_error_that_nobody_expected_never_stops_the_rest(desk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_for_the_first(letter: DeadLetter, *args: Any, **facts: Any) -> None:
        if letter.pk == letters[0].pk:
            raise OperationalError("the database went away <b>")
        take(letter, *args, **facts)

    letters = [DeadLetterFactory(), DeadLetterFactory()]
    take = decide.take
    monkeypatch.setattr(decide, "take", break_for_the_first)
    lines = said(send(desk, "discard", letters))

    assert lines[0] == "1 dead letter was discarded. 1 was not."
    assert "the database went away" in lines[1]
    assert statuses(*letters) == ["open", "discarded"]


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


def failing(monkeypatch: pytest.MonkeyPatch, *errors: Exception | None) -> list[int]:
    """Requeues that end like this one after the other, None as Decision; an error that is not of ours ends a batch.
    The letters that were tried, as they come."""
    tried: list[int] = []

    def requeue_each(letters: Sequence[int], order: Order) -> Iterator[tuple[int, Decision | Exception]]:
        for pk in letters:
            error = errors[len(tried)]
            tried.append(pk)
            if error is not None and not isinstance(error, TaskOpsError):
                raise error
            yield pk, error or decided(DeadLetter.objects.get(pk=pk), "sent")

    monkeypatch.setattr(many, "requeue_each", requeue_each)
    return tried


def decided(letter: DeadLetter, outcome: str) -> Decision:
    return Decision(
        action=AuditAction.REQUEUE,
        dead_letter_id=letter.pk,
        task_id=letter.task_id,
        generation=letter.generation,
        outcome=outcome,
    )


def test_a_bulk_ends_where_the_broker_is_down(
    desk: Client, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: Publisher, app: Any) -> Any:
        self._unreachable[app] = "OSError('refused')"
        raise Unreachable(self._unreachable[app])

    letters = DeadLetterFactory.create_batch(3)
    monkeypatch.setattr(Publisher, "_line", cut)
    monkeypatch.setattr(import_module("django_taskops.recovery.requeue"), "BATCH", 1)
    lines = said(send(desk, "requeue", letters))

    assert lines[0] == "0 dead letters were requeued. 3 were not."
    assert lines[1].startswith("1 was skipped: the broker did not take the message")
    assert lines[2] == "2 were not tried, because the broker is not reachable."
    assert statuses(*letters) == ["open"] * 3


def test_what_may_have_been_sent_is_not_called_refused(desk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = OperationalError("the database went away")
    tried = failing(monkeypatch, NotRequeueable("not_confirmed", "the broker did not answer"), lost, lost, None)
    letters = DeadLetterFactory.create_batch(3)
    lines = said(send(desk, "requeue", letters))

    assert lines == [
        "1 dead letter was requeued. 2 are not confirmed.",
        "1 is not confirmed, it may have been sent: the broker did not answer",
        f"1 is not confirmed, it may have been sent: unexpected: {lost!r}; the log has more",
    ]
    assert tried == [letters[0].pk, letters[1].pk, letters[1].pk, letters[2].pk]


def test_a_letter_that_a_failed_batch_has_taken_is_not_called_somebody_elses(
    desk: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = OperationalError("the database went away")
    failing(monkeypatch, lost, AlreadyTaken("x", "open", "requeued"), None)

    assert said(send(desk, "requeue", DeadLetterFactory.create_batch(2)))[1:] == [
        f"1 is not confirmed, it may have been sent: unexpected: {lost!r}; the log has more"
    ]


def test_what_was_sent_without_a_note_counts_as_requeued(
    desk: Client, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intents, "confirm", lambda *_told: "sent, not confirmed")

    assert said(send(desk, "requeue", [DeadLetterFactory()])) == [
        "1 dead letter was requeued.",
        "1 of them was sent, but the database did not take the note of it.",
    ]


def test_a_requeue_gives_the_attempts_that_were_chosen(desk: Client, queue: BrokerQueue) -> None:
    once, three, fresh, silent = DeadLetterFactory.create_batch(4)
    send(desk, "requeue", [once], attempts="once", starts="")
    send(desk, "requeue", [three], attempts="count", starts="3")
    send(desk, "requeue", [fresh], attempts="fresh")
    send(desk, "requeue", [silent])

    granted = {entry.object_id: entry.details.get("attempts") for entry in AuditEntry.objects.all()}
    assert granted == {str(once.pk): 1, str(three.pk): 3, str(fresh.pk): None, str(silent.pk): None}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"attempts": "count"}, "Say how many attempts, from 1 up."),
        ({"attempts": "count", "starts": "0"}, "greater than or equal to 1"),
        ({"attempts": "count", "starts": "9" * 50}, "less than or equal to 10000"),
        ({"attempts": "count", "starts": "<script>"}, "Enter a whole number."),
        ({"attempts": "once", "starts": "3"}, "or leave the number empty"),
        ({"attempts": "<script>"}, "is not one of the available choices"),
        ({"force": "1\x00"}, "Null characters are not allowed."),
    ],
)
def test_what_can_not_be_meant_is_asked_again(desk: Client, given: dict[str, str], says: str) -> None:
    letter = DeadLetterFactory()
    response = send(desk, "requeue", [letter], **given)

    assert says in Page(response).text
    assert "<script>" not in content(response).split("<main", 1)[1]
    assert statuses(letter) == ["open"]


def test_what_was_chosen_is_still_chosen_when_it_is_asked_again(desk: Client) -> None:
    page = Page(send(desk, "requeue", [DeadLetterFactory()], attempts="count", starts="0"))
    (checked,) = [attrs for attrs in page.all("input") if attrs.get("type") == "radio" and "checked" in attrs]

    assert checked["value"] == "count"


def test_what_is_refused_by_judgement_is_sent_by_force_alone(
    desk: Client, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only_registered(monkeypatch, "shop.tasks.price")
    well, unknown = DeadLetterFactory(), DeadLetterFactory(run__task_name="shop.tasks.gone")
    hopeless = DeadLetterFactory(run__task_name="shop.tasks.gone", without_envelope=True)
    letters = [well, unknown, hopeless]
    page = Page(ask(desk, "requeue", letters))

    assert "1 will be skipped unless you force it: no live worker has registered the task." in page.text
    assert "Force it: send 1 refused task all the same" in page.text
    (box,) = [attrs for attrs in page.all("input") if attrs.get("name") == "force"]
    assert box["value"] == str(unknown.pk)
    assert "checked" not in box

    send(desk, "requeue", letters)
    assert statuses(*letters) == ["requeued", "open", "open"]
    lines = said(send(desk, "requeue", [unknown, hopeless], force=box["value"]))
    assert lines[0] == "1 dead letter was requeued. 1 was not."
    assert statuses(*letters) == ["requeued", "requeued", "open"]
    forced = AuditEntry.objects.filter(details__force=True)
    assert [entry.object_id for entry in forced] == [str(unknown.pk)]


def test_what_was_not_shown_as_refused_is_not_forced(
    desk: Client, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is refused when the page is made, the other only by the time that the form comes."""
    _only_registered(monkeypatch)
    shown, other = DeadLetterFactory(), DeadLetterFactory()
    send(desk, "requeue", [shown, other], force=str(shown.pk))

    assert statuses(shown, other) == ["requeued", "open"]


def test_a_letter_that_is_refused_by_judgement_can_still_be_asked_for(
    desk: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only_registered(monkeypatch)
    letter = DeadLetterFactory()
    page = Page(desk.get(reverse("admin:taskops_deadletter_change", args=[letter.pk])))

    assert "A requeue is refused unless you force it: no live worker has registered" in page.text
    assert any(link.startswith(address("requeue")) for link in page.links())


def _only_registered(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(workers, "registered_by_all", lambda: frozenset(names))


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
