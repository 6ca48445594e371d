"""The edited requeue: secrets hidden, errors that say where, a review of what is different, then one send."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from celery import current_app
from django.conf import settings as django_settings
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.models import Session
from django.core.handlers.base import BaseHandler
from django.db import connections
from django.test import Client
from django.urls import resolve, reverse
from django.utils import timezone
from kombu.utils import json as celery_json

from django_taskops.capture.envelope import Envelope
from django_taskops.models import AuditEntry, DeadLetter, OutboxEntry, OutboxKind
from django_taskops.recovery import workers
from django_taskops.recovery.decide import Person
from django_taskops.recovery.editing import drafts
from tests.admin.conftest import LogIn
from tests.admin.pages import Page, content
from tests.factories import DeadLetterFactory

SECRET = "pa55-of-the-supplier"
ALL = ("view_deadletter", "requeue_deadletter", "edit_payload")
EVIL = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def the_task_is_known() -> Iterator[None]:
    """Else all its arguments are hidden."""

    @current_app.task(name="shop.tasks.price", shared=False)
    def price(sku: object, currency: str = "EUR", **more: object) -> None: ...

    assert "shop.tasks.price" in current_app.tasks
    yield
    del current_app.tasks["shop.tasks.price"]


def a_letter(args: Any = (42,), kwargs: Any = None, body: bytes | None = None, **more: Any) -> DeadLetter:
    letter: DeadLetter = DeadLetterFactory(**more)
    found = Envelope.from_bytes(letter.envelope or b"")
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    written = celery_json.dumps([list(args), {} if kwargs is None else kwargs, embed]).encode()
    fields = {name: getattr(found, name) for name in Envelope.__dataclass_fields__}
    headers = {**found.headers, "task": letter.task_name}
    letter.envelope = Envelope(**{**fields, "headers": headers, "body": body or written}).to_bytes()
    letter.save(update_fields=["envelope"])
    return letter


def address(letter: DeadLetter) -> str:
    return reverse("admin:taskops_deadletter_edit", args=[letter.pk])


def opened(client: Client, letter: DeadLetter) -> dict[str, str]:
    """What the editor would send, untouched."""
    form = client.get(address(letter)).context["form"]
    names = ("args", "kwargs", "mark", "queue", "countdown")
    return {name: form[name].value() or "" for name in names} | {"attempts": "fresh", "why": ""}


def review(client: Client, letter: DeadLetter, **typed: Any) -> Any:
    return client.post(address(letter), {**opened(client, letter), **typed, "step": "review"})


def carried(response: Any) -> dict[str, str]:
    """What the button of the review sends."""
    page = Page(response)
    fields = [attrs for attrs in page.all("input") if attrs.get("type") == "hidden"]
    return {attrs["name"] or "": attrs.get("value") or "" for attrs in fields if attrs["name"] != "csrfmiddlewaretoken"}


def send(client: Client, letter: DeadLetter, **typed: Any) -> Any:
    reviewed = review(client, letter, **typed)
    assert "Send this?" in content(reviewed), Page(reviewed).text
    return client.post(address(letter), {**carried(reviewed), "step": "send"}, follow=True)


def said(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def wrong(response: Any) -> str:
    assert response.context["form"].errors
    assert "Send this?" not in content(response)
    return unescape(str(response.context["form"].errors.as_text()))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, broker: str) -> Callable[[], list[Envelope]]:
    """The messages that are put on the broker."""
    from django_taskops.recovery.broker import Publisher

    messages: list[Envelope] = []
    monkeypatch.setattr(Publisher, "publish", lambda _self, _app, envelope: messages.append(envelope))
    return lambda: messages


def test_an_edit_is_reviewed_and_then_sent_once(desk: Client, sent: Any) -> None:
    letter = a_letter([42], {"currency": "EUR"})
    before = bytes(letter.envelope or b"")
    reviewed = review(desk, letter, args="[43]", why="a typo")
    page = Page(reviewed)

    assert "- 42" in page.text
    assert "+ 43" in page.text
    assert not sent()
    fields = carried(reviewed)
    first = desk.post(address(letter), {**fields, "step": "send"}, follow=True)
    again = desk.post(address(letter), {**fields, "step": "send"}, follow=True)

    assert said(first) == ["1 dead letter was requeued."]
    assert "it is “Requeued”, not “Open”" in Page(again).text
    (message,) = sent()
    assert celery_json.loads(message.body)[:2] == [[43], {"currency": "EUR"}]
    letter.refresh_from_db()
    assert (letter.status, bytes(letter.envelope or b"")) == ("requeued", before)
    entry = AuditEntry.objects.get()
    assert (entry.why, entry.details["args"]) == ("a typo", [43])
    assert LogEntry.objects.get().change_message == "Edited requeue: a typo"
    audit = Page(desk.get(reverse("admin:taskops_auditentry_change", args=[entry.pk]))).text
    assert "shop.tasks.price(43, currency='EUR')" in audit
    assert "sent, with other arguments a typo" in Page(first).text


def test_who_sees_no_payload_sees_none_of_an_edit_in_the_audit_trail(desk: Client, log_in: LogIn, sent: Any) -> None:
    send(desk, a_letter([42]), args='["only-for-some"]')
    address = reverse("admin:taskops_auditentry_change", args=[AuditEntry.objects.get().pk])

    assert "only-for-some" in content(log_in("view_auditentry", "view_payload", name="li").get(address))
    assert "only-for-some" not in content(log_in("view_auditentry").get(address))


def test_what_is_not_touched_goes_out_byte_for_byte(desk: Client, sent: Any) -> None:
    body = b'[[ [1.0,  "\\u00e9",[1e5]]],{"b":1, "a":{"password":"x"}}, {"chord":null}]'
    letter = a_letter(body=body)
    response = send(desk, letter, queue="slow", countdown="5")

    assert said(response) == ["1 dead letter was requeued."]
    (message,) = sent()
    assert message.body == body
    assert message.queue == "slow"
    assert message.headers["eta"]
    details = AuditEntry.objects.get().details
    assert (details["queue"], details["countdown"]) == ("slow", 5.0)


def test_secrets_stay_hidden_and_go_out_as_they_were(desk: Client, sent: Any, caplog: pytest.LogCaptureFixture) -> None:
    letter = a_letter([42, "EUR"], {"password": SECRET, "note": "old"})
    editor = desk.get(address(letter))
    fields = opened(desk, letter)
    reviewed = review(desk, letter, kwargs=fields["kwargs"].replace("old", "new"))
    done = desk.post(address(letter), {**carried(reviewed), "step": "send"}, follow=True)
    pages = [content(editor), content(reviewed), content(done), *everywhere(desk, letter)]

    assert "[redacted 1]" in fields["kwargs"]
    assert not [page for page in pages if SECRET in page]
    (message,) = sent()
    assert celery_json.loads(message.body)[1] == {"password": SECRET, "note": "new"}
    assert SECRET not in caplog.text


def test_a_secret_that_is_typed_is_hidden_at_once_and_sent(desk: Client, sent: Any) -> None:
    letter = a_letter([42], {"password": SECRET})
    reviewed = review(desk, letter, kwargs='{"password": "typed-pa55"}')
    again = desk.post(address(letter), {**carried(reviewed), "step": "edit"})
    resent = {**carried(again), "args": "[42]", "attempts": "fresh", "kwargs": again.context["form"]["kwargs"].value()}
    reviewed = desk.post(address(letter), {**resent, "step": "review"})
    assert OutboxEntry.objects.filter(kind=OutboxKind.DRAFT).exists()
    done = desk.post(address(letter), {**carried(reviewed), "step": "send"}, follow=True)
    pages = [content(reviewed), content(again), content(done), *everywhere(desk, letter)]

    assert said(done) == ["1 dead letter was requeued."]
    assert '- "password": "[redacted 1]" + "password": "[redacted 2]"' in Page(reviewed).text
    assert not [page for page in pages if "typed-pa55" in page or SECRET in page]
    (message,) = sent()
    assert celery_json.loads(message.body)[1] == {"password": "typed-pa55"}


def test_a_typed_secret_is_hidden_where_another_field_is_wrong(desk: Client) -> None:
    letter = a_letter([42], {"password": SECRET})
    response = review(desk, letter, kwargs='{"password": "typed-pa55"}', countdown="-1")

    assert "greater than or equal to 0" in wrong(response)
    assert "typed-pa55" not in content(response)


def test_a_draft_is_its_authors_and_its_letters_alone(desk: Client, log_in: LogIn) -> None:
    letter, other = a_letter([42], {"password": SECRET}), a_letter([42], {"password": SECRET})
    fields = carried(review(desk, letter, kwargs='{"password": "typed-pa55"}'))
    stranger = log_in(*ALL)

    stolen = stranger.post(address(letter), {**fields, "step": "review"})
    assert "stands for nothing" in wrong(stolen)
    fields["mark"] = opened(desk, other)["mark"]
    assert "stands for nothing" in wrong(desk.post(address(other), {**fields, "step": "send"}))
    OutboxEntry.objects.filter(kind=OutboxKind.DRAFT).update(created_at=timezone.now() - timedelta(hours=2))
    fields["mark"] = opened(desk, letter)["mark"]
    assert "stands for nothing" in wrong(desk.post(address(letter), {**fields, "step": "send"}))


@pytest.mark.parametrize("key", ["draft:{pk}:\x00", "draft:{pk}:" + "x" * 400, "draft:{pk}:%", "requeue:1", "\ud83d"])
def test_a_key_that_can_not_be_one_finds_nothing(desk: Client, key: str) -> None:
    letter = a_letter()

    assert drafts.find(key.format(pk=letter.pk), letter, Person("1", "li")) == ()


def everywhere(client: Client, letter: DeadLetter) -> list[str]:
    """All that people and the server keep of it, but the message itself."""
    rows = [str(list(AuditEntry.objects.values())), str(list(LogEntry.objects.values()))]
    rows += [str(session.get_decoded()) for session in Session.objects.all()]
    rows += [json.dumps(OutboxEntry.objects.exclude(kind=OutboxKind.DRAFT).values_list("payload", flat=True)[0])]
    names = [("deadletter", letter.pk), ("taskrun", letter.run_id)]
    names += [("auditentry", entry.pk) for entry in AuditEntry.objects.all()]
    pages = [client.get(reverse(f"admin:taskops_{model}_change", args=[pk])) for model, pk in names]
    return rows + [content(page) for page in pages]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ({"args": '[1,\n  2 "x"]'}, "not JSON at line 2, column 5: Expecting ',' delimiter"),
        ({"args": "{}"}, "expected a list, got an object"),
        ({"kwargs": "[]"}, "expected an object, got a list"),
        ({"args": '"x"'}, "expected a list, got a string"),
        ({"args": "null"}, "expected a list, got null"),
        ({"args": "true"}, "expected a list, got true or false"),
        ({"args": "7"}, "expected a list, got a number"),
        ({"args": ""}, "This field is required."),
        ({"args": "[NaN]"}, "NaN is not JSON"),
        ({"args": "[-Infinity]"}, "-Infinity is not JSON"),
        ({"args": "[1e999]"}, "the number 1e999 is too large"),
        ({"args": f"[{'9' * 5000}]"}, "is too long"),
        ({"kwargs": '{"a": 1, "a": 2}'}, "the name “a” comes twice in one object"),
        ({"args": "[" * 300 + "]" * 300}, "nested too deeply"),
        ({"args": "[" * 100_000}, "nested too deeply"),
        ({"args": "[1]\x00"}, "Null characters are not allowed."),
        ({"args": '["[redacted 7]"]'}, "“[redacted 7]” stands for nothing here"),
        ({"kwargs": '{"note": "[redacted 1]"}'}, "can't stand there"),
        ({"args": '[{"__type__": "datetime", "__value__": "yesterday"}]'}, "“__type__” can't be read"),
        ({"args": "[]"}, "its arguments do not fit the task any more"),
        ({"args": "[1, 2, 3]"}, "its arguments do not fit the task any more"),
        ({"args": f'["{"x" * 400_001}"]'}, "more than 400,000 characters"),
        ({"countdown": "nan"}, "Enter a number."),
        ({"countdown": "1e99"}, "less than or equal to 31622400"),
        ({"queue": "x" * 256}, "at most 255 characters"),
        ({"attempts": "count"}, "Say how many attempts"),
        ({"mark": "another"}, "Begin again from the letter."),
    ],
)
def test_what_is_wrong_is_said_precisely(desk: Client, sent: Any, typed: dict[str, str], says: str) -> None:
    letter = a_letter([42], {"password": SECRET})
    response = review(desk, letter, **typed)

    assert says in wrong(response)
    assert SECRET not in content(response)
    assert says in wrong(desk.post(address(letter), {**opened(desk, letter), **typed, "step": "send"}))
    assert not sent()


def test_both_parts_are_told_of_their_errors(desk: Client) -> None:
    response = review(desk, a_letter(), args="[", kwargs="{")

    assert set(response.context["form"].errors) == {"args", "kwargs"}


def test_arguments_that_do_not_fit_are_sent_by_force(desk: Client, sent: Any) -> None:
    letter = a_letter([42])
    assert "Tick “Force it”" in wrong(review(desk, letter, args="[]"))

    assert said(send(desk, letter, args="[]", force=str(letter.pk))) == ["1 dead letter was requeued."]
    assert AuditEntry.objects.get().details["force"] is True


def test_an_edit_that_mends_the_arguments_needs_no_force(desk: Client, sent: Any) -> None:
    letter = a_letter([])

    assert said(send(desk, letter, args="[42]")) == ["1 dead letter was requeued."]


def test_a_refusal_by_judgement_is_said_before_anything_is_sent(desk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "registered_by_all", frozenset)

    assert "no live worker has registered" in wrong(review(desk, a_letter()))


def test_dates_and_odd_numbers_come_through(desk: Client, sent: Any) -> None:
    at = timezone.now()
    letter = a_letter([[at, float("nan"), 10**30, "\x00\ud800\u202e漢"]], {"note": 1})
    fields = opened(desk, letter)

    assert said(send(desk, letter, args=fields["args"].replace("1" + "0" * 30, "7"))) == ["1 dead letter was requeued."]
    when, nan, number, text = celery_json.loads(sent()[0].body)[0][0]
    assert (when, number, text) == (at, 7, "\x00\ud800\u202e漢")
    assert nan != nan
    assert "漢" in fields["args"]
    assert "\u202e" not in fields["args"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"content_type": "application/x-python-serialize"}, "this message is application/x-python-serialize"),
        ({"body": b"{}"}, "The arguments can&#x27;t be edited"),
        ({"body": b"\xff"}, "The arguments can&#x27;t be edited"),
        ({"body": b"[" * 100_000}, "nested too deeply"),
        ({"body": b"[" * 150 + b"]" * 150}, "The arguments can&#x27;t be edited"),
        ({"body": b'[["' + b"x" * 210_000 + b'"], {}, {}]'}, "more than the 200,000 that a page can take"),
    ],
)
def test_what_can_not_be_edited_is_said_with_the_reason(desk: Client, change: dict[str, Any], says: str) -> None:
    letter = a_letter()
    found = Envelope.from_bytes(letter.envelope or b"")
    fields = {name: getattr(found, name) for name in Envelope.__dataclass_fields__}
    letter.envelope = Envelope(**{**fields, **change}).to_bytes()
    letter.save(update_fields=["envelope"])

    for response in (desk.get(address(letter)), desk.post(address(letter), {"step": "send"})):
        assert says in content(response)
        assert not Page(response).all("textarea")


def test_a_task_that_nobody_here_knows_has_all_its_arguments_hidden(desk: Client, sent: Any) -> None:
    letter = a_letter(["secret-42"], {"a": SECRET}, run__task_name="elsewhere.task")
    page = content(desk.get(address(letter)))

    assert "does not know the task" in page
    assert "secret-42" not in page
    assert SECRET not in page


def test_a_letter_that_was_decided_meanwhile_is_not_sent(desk: Client, sent: Any) -> None:
    letter = a_letter()
    fields = carried(review(desk, letter, args="[43]"))
    DeadLetter.objects.filter(pk=letter.pk).update(status="discarded")

    assert "it is “Discarded”, not “Open”" in content(desk.post(address(letter), {**fields, "step": "send"}))
    assert not sent()


@pytest.mark.parametrize("missing", ALL)
def test_who_may_not_edit_sees_no_editor(log_in: LogIn, missing: str) -> None:
    letter = a_letter()
    client = log_in(*(name for name in (*ALL, "view_taskrun") if name != missing))

    assert client.get(address(letter)).status_code == 403
    assert client.post(address(letter), {"step": "send", "args": "[]", "kwargs": "{}"}).status_code == 403
    page = client.get(reverse("admin:taskops_deadletter_change", args=[letter.pk]))
    assert address(letter) not in content(page)


def test_who_may_edit_finds_the_editor_on_the_page_of_the_letter(log_in: LogIn) -> None:
    letter, done = a_letter(), DeadLetterFactory(resolved=True)
    client = log_in(*ALL)

    assert address(letter) in Page(client.get(reverse("admin:taskops_deadletter_change", args=[letter.pk]))).links()
    assert address(done) not in content(client.get(reverse("admin:taskops_deadletter_change", args=[done.pk])))


def test_strangers_and_forms_without_a_token_are_refused(desk: Client) -> None:
    letter = a_letter()
    desk.handler.enforce_csrf_checks = True

    assert "/login/" in Client().get(address(letter))["Location"]
    assert desk.post(address(letter), {"step": "send"}).status_code == 403
    assert desk.get(reverse("admin:taskops_deadletter_edit", args=[10**30])).status_code == 404


def test_nothing_in_the_editor_becomes_markup(desk: Client) -> None:
    letter = a_letter([EVIL], {EVIL: "</textarea>" + EVIL}, run__task_name="shop.tasks.price", run__queue=EVIL)
    typed = {"args": f'["{EVIL}", 2]', "why": EVIL, "queue": EVIL, "kwargs": "{}"}
    responses = [
        desk.get(address(letter)),
        review(desk, letter, **typed),
        review(desk, letter, **{**typed, "countdown": EVIL, "starts": EVIL, "mark": EVIL, "args": EVIL, "draft": EVIL}),
    ]

    for response in responses:
        assert EVIL not in content(response)
        assert "&lt;script&gt;" in content(response)


def test_the_editor_costs_the_same_for_any_message(desk: Client, django_assert_max_num_queries: Any) -> None:
    letter = a_letter([list(range(1000))], {f"password{number}": number for number in range(500)})
    desk.get(address(letter))
    with django_assert_max_num_queries(9):
        desk.get(address(letter))


def test_a_send_is_outside_the_transaction_of_the_request(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for alias in django_settings.DATABASES:
        monkeypatch.setitem(connections[alias].settings_dict, "ATOMIC_REQUESTS", True)
    view = resolve(reverse("admin:taskops_deadletter_edit", args=[1])).func

    assert BaseHandler().make_view_atomic(view) is view
