"""More letters than a page can show: pinned, counted, handed over once, and seen on a page of their own."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from django_taskops.admin import handing_over
from django_taskops.models import AuditAction, AuditEntry, DeadLetter, OutboxEntry, OutboxKind
from django_taskops.recovery import bulk
from django_taskops.recovery.decide import Decided, Person
from django_taskops.recovery.intents import Order
from django_taskops.recovery.message import Changes
from tests.admin.conftest import LogIn
from tests.admin.pages import Page, content
from tests.admin.test_deciding import LIST, VERBS, address, ask, said
from tests.factories import DeadLetterFactory, WorkerBeatFactory

RUNS = "admin:taskops_deadletter_runs"
EVIL = "<script>alert(1)</script>"


def many_letters(count: int = 101) -> list[DeadLetter]:
    """Of one run; the last is resolved, and the one before it has no message."""
    first = DeadLetterFactory()
    more = [
        DeadLetter(
            run=first.run,
            task_id=first.task_id,
            task_name=first.task_name,
            publication=first.publication,
            generation=number,
            reason=first.reason,
            died_at=first.died_at,
            status="resolved" if number == count - 1 else "open",
            envelope=None if number == count - 2 else first.envelope,
        )
        for number in range(1, count)
    ]
    DeadLetter.objects.bulk_create(more)
    return list(DeadLetter.objects.order_by("pk"))


def hand_over(client: Client, verb: str, page: Any, **more: Any) -> Any:
    fields = {name: Page(page).hidden(name)[0] for name in ("letters", "key")}
    return client.post(address(verb), {**fields, "why": "I know why", **more}, follow=True)


def entry() -> OutboxEntry:
    found: OutboxEntry = OutboxEntry.objects.get(kind=OutboxKind.MANY)
    return found


def test_many_letters_are_counted_before_they_are_handed_over(desk: Client) -> None:
    letters = many_letters()
    text = Page(ask(desk, "requeue", [*letters, DeadLetter(pk=10**9)])).text

    assert "102 dead letters selected, and pinned" in text
    assert "99 tasks will be sent again." in text
    assert "1 will be skipped: there is no message of it to send again." in text
    assert "1 does not exist any more." in text
    assert "Open 100" in text
    assert "Resolved 1" in text
    assert "100 dead letters will be discarded." in Page(ask(desk, "discard", letters)).text
    assert not OutboxEntry.objects.filter(kind=OutboxKind.MANY).exists()


@pytest.mark.parametrize("verb", VERBS)
def test_many_letters_are_handed_over_once(desk: Client, verb: str) -> None:
    letters = many_letters()
    if verb == "restore":
        DeadLetter.objects.update(status="discarded")
    page = ask(desk, verb, letters)
    first, again = hand_over(desk, verb, page), hand_over(desk, verb, page)

    assert said(first) == ["It is handed over to the workers. This page says how far they are."]
    assert said(again) == ["This has been handed over already. Nothing was added."]
    payload = entry().payload
    assert payload["letters"] == [letter.pk for letter in letters]
    assert (payload["action"], payload["user_name"], payload["why"]) == (verb, "root", "I know why")
    assert not AuditEntry.objects.exists()
    assert "101 letters" in Page(first).text


def test_what_was_chosen_for_many_goes_along(desk: Client) -> None:
    hand_over(desk, "requeue", ask(desk, "requeue", many_letters()), attempts="count", starts="3", force="each")

    assert (entry().payload["options"], entry().payload["force"]) == ({"attempts": 3}, True)


def test_a_mistake_in_the_form_keeps_what_was_chosen(desk: Client) -> None:
    letters = many_letters()
    response = hand_over(desk, "requeue", ask(desk, "requeue", letters), attempts="count")

    assert "Say how many attempts" in Page(response).text
    assert Page(response).hidden("letters") == [",".join(str(letter.pk) for letter in letters)]
    assert not OutboxEntry.objects.filter(kind=OutboxKind.MANY).exists()


def test_all_pages_of_a_list_are_pinned_as_it_is_filtered(desk: Client) -> None:
    letters = many_letters(130)
    ticked = {"action": "discard", "_selected_action": [letters[0].pk], "select_across": "1"}
    page = desk.post(f"{reverse(LIST)}?status=open", ticked)

    assert "129 dead letters selected" in Page(page).text
    DeadLetterFactory()
    hand_over(desk, "discard", page)
    assert entry().payload["letters"] == [letter.pk for letter in letters[:-1]]


def test_the_list_offers_all_pages(desk: Client) -> None:
    many_letters()
    text = content(desk.get(f"{reverse(LIST)}?status=all"))

    assert "Select all 101 dead letters" in text
    assert "more than 100 are done by a worker, at most 10,000 at a time" in text


def test_no_more_are_pinned_than_a_run_takes_and_it_says_so(desk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_over, "MAX_PINNED", 110)
    letters = many_letters(130)
    page = desk.post(
        f"{reverse(LIST)}?status=all", {"action": "discard", "_selected_action": [1], "select_across": "1"}
    )

    assert said(page) == ["These are the newest 110 of what the list shows. The others stay as they are."]
    assert Page(page).hidden("letters") == [",".join(str(letter.pk) for letter in letters[20:])]


def test_more_than_a_run_takes_are_refused(desk: Client) -> None:
    chosen = ",".join(map(str, range(1, 10_002)))
    response = desk.post(address("discard"), {"letters": chosen, "why": "x"}, follow=True)

    assert said(response) == ["Choose at most 10,000 dead letters at a time. Nothing was changed."]
    assert not OutboxEntry.objects.filter(kind=OutboxKind.MANY).exists()


def test_ten_thousand_letters_go_through_one_field(desk: Client) -> None:
    DeadLetterFactory()
    chosen = ",".join(map(str, range(1, 10_001)))
    response = desk.post(address("discard"), {"letters": chosen, "why": "x", "key": "a" * 32}, follow=True)

    assert said(response) == ["It is handed over to the workers. This page says how far they are."]


def test_a_hundred_letters_are_decided_on_at_once(desk: Client) -> None:
    letters = many_letters(100)
    response = desk.post(address("discard"), {"letter": [letter.pk for letter in letters], "why": "x"}, follow=True)

    assert said(response)[0] == "99 dead letters were discarded. 1 was not."


def test_counting_costs_the_same_for_any_number(desk: Client) -> None:
    letters = many_letters(400)

    def cost(count: int) -> int:
        with (
            CaptureQueriesContext(connections["default"]) as default,
            CaptureQueriesContext(connections["sqlite"]) as sqlite,
        ):
            assert ask(desk, "requeue", letters[:count]).status_code == 200
        return len(default) + len(sqlite)

    cost(101)
    assert cost(101) == cost(400)


def a_run(**changed: Any) -> OutboxEntry:
    decided = Decided(Person("7", changed.pop("name", "li")), changed.pop("why", "the supplier is back"))
    order = Order(changes=Changes.checked(attempts="once"), decided=decided, force=True)
    bulk.hand_over("k" * 32, AuditAction.REQUEUE, list(range(1, 1501)), order)
    found = entry()
    found.payload |= {"letters": found.payload["letters"][1000:], "done": 900, "unconfirmed": 1}
    found.payload["refused"] = {"healed": [90, "x"], "taken:resolved": [8, "y"], "unexpected": [1, EVIL]}
    for name, value in changed.items():
        setattr(found, name, value)
    found.save()
    return found


def test_the_page_says_how_far_a_run_is_and_why_it_left_some_out(desk: Client) -> None:
    a_run(claimed_until=timezone.now() + timedelta(minutes=1))
    WorkerBeatFactory(applied_at=timezone.now())
    page = Page(desk.get(reverse(RUNS)))

    assert "Requeue 1,500 letters at work" in page.text
    assert "done 900 refused 99 not confirmed 1 to go 500" in page.text
    assert "90: the same task with equal arguments has succeeded since" in page.text
    assert "8: already taken: it is “Resolved” by now" in page.text
    assert "by li" in page.text
    assert "the supplier is back" in page.text
    assert "by force" in page.text
    assert "No worker is alive" not in page.text
    assert any("auditentry" in link and "q=li" in link for link in page.links())


def test_the_page_says_that_nobody_works_on_it(desk: Client) -> None:
    a_run()
    text = Page(desk.get(reverse(RUNS))).text

    assert "waits for a worker" in text
    assert "No worker is alive, so that nobody works on it." in text
    assert "manage.py taskops_requeue" in text
    assert "A bulk run is under way" in Page(desk.get(reverse(LIST))).text


def test_an_ended_run_says_what_it_has_not_tried(desk: Client) -> None:
    found = a_run()
    assert "The run is stopped." in said(desk.post(_stop(found), follow=True))[0]
    text = Page(desk.get(reverse(RUNS))).text

    assert "not tried 500" in text
    assert "Stopped by root." in text
    assert "No worker is alive" not in text
    assert said(desk.post(_stop(found), follow=True)) == ["The run had ended already."]


def _stop(found: OutboxEntry) -> str:
    return reverse("admin:taskops_deadletter_stop", args=[found.pk])


def test_who_may_not_requeue_stops_no_requeue(log_in: LogIn) -> None:
    found = a_run()
    viewer, discarder = log_in("view_deadletter"), log_in("view_deadletter", "discard_deadletter", name="li")
    blind = log_in("requeue_deadletter", name="blind")
    able = log_in("view_deadletter", "requeue_deadletter", name="able")

    assert _stop(found) not in content(viewer.get(reverse(RUNS)))
    assert {client.post(_stop(found)).status_code for client in (viewer, discarder, blind)} == {403}
    assert blind.get(reverse(RUNS)).status_code == 403
    assert able.get(_stop(found)).status_code == 405
    assert able.post(reverse(RUNS)).status_code == 405
    assert able.post(reverse("admin:taskops_deadletter_stop", args=[10**30])).status_code == 403
    assert entry().status == "pending"
    assert able.post(_stop(found)).status_code == 302


@pytest.mark.parametrize("verb", VERBS)
def test_who_may_not_decide_hands_nothing_over(log_in: LogIn, verb: str) -> None:
    letters = many_letters()
    client = log_in("view_deadletter", *(f"{other}_deadletter" for other in VERBS if other != verb))
    fields = {"letters": ",".join(str(letter.pk) for letter in letters), "why": "x", "key": "a" * 32}

    assert ask(client, verb, letters).status_code == 403
    assert ask(client, verb, letters[:1], select_across="1").status_code == 403
    assert client.post(address(verb), fields).status_code == 403
    assert not OutboxEntry.objects.filter(kind=OutboxKind.MANY).exists()


def test_strangers_and_forms_without_a_token_change_nothing(desk: Client) -> None:
    found = a_run()
    desk.handler.enforce_csrf_checks = True

    assert "/login/" in Client().get(reverse(RUNS))["Location"]
    assert "/login/" in Client().post(_stop(found))["Location"]
    assert desk.post(_stop(found)).status_code == 403
    assert entry().status == "pending"


def test_nothing_in_a_run_becomes_markup(desk: Client) -> None:
    a_run(name=EVIL, why=EVIL, error=f"{bulk.STOPPED}: {EVIL}", status="failed")
    page = content(desk.get(reverse(RUNS)))

    assert EVIL not in page
    assert page.count("&lt;script&gt;") >= 4


def test_the_page_of_the_runs_costs_the_same_for_any_number(desk: Client) -> None:
    def cost() -> int:
        with (
            CaptureQueriesContext(connections["default"]) as default,
            CaptureQueriesContext(connections["sqlite"]) as sqlite,
        ):
            desk.get(reverse(RUNS))
        return len(default) + len(sqlite)

    a_run()
    cost()
    one = cost()
    for number in range(30):
        bulk.hand_over(
            str(number),
            AuditAction.DISCARD,
            [1],
            Order(changes=Changes.checked(attempts=1), decided=Decided(Person("", ""), "")),
        )
    assert cost() == one
