"""One message a window for each channel and cause, whatever happens to the processes and to the way to the people."""

import json
import logging
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Barrier, Thread
from typing import Any, ClassVar

import django
import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.locmem import EmailBackend
from django.db import connections
from django.utils import timezone
from pytest_django import Settings

from django_taskops import alerts
from django_taskops.exceptions import TaskOpsError
from django_taskops.models import DeadLetter, OutboxEntry, OutboxKind, OutboxStatus
from django_taskops.projection import writer
from django_taskops.recovery import alerts as room
from django_taskops.recovery import channels, outbox
from django_taskops.signals import recorder_blind, task_dead_lettered
from django_taskops.states import LetterStatus
from tests.events import Story
from tests.factories import DeadLetterFactory, OutboxEntryFactory

SECRET = "T0SECRET"
MANY = 10_000


@pytest.fixture(autouse=True)
def switched_off(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test switches its own alerts on."""
    monkeypatch.setattr(room, "_channels", {})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings.ADMINS = ["ops@example.com"] if django.VERSION >= (6, 0) else [("Ops", "ops@example.com")]


class Webhook(HTTPServer):
    """Answers with `statuses`, one after the other, then with 200; keeps what was posted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), WebhookHandler)
        self.statuses: list[int] = []
        self.posted: list[dict[str, Any]] = []
        self.types: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/{SECRET}"


class WebhookHandler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.types.append(self.headers["Content-Type"])
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Location", f"http://127.0.0.1:1/{SECRET}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base class names it so
        """Keeps the output of the tests clean."""


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def die(count: int = 1, **fields: Any) -> list[DeadLetter]:
    """That many committed letters of one cause, newest last."""
    first = DeadLetterFactory(**{"run__exhausted": True, "without_envelope": True, **fields})
    others = [copy(first) for _ in range(count - 1)]
    for generation, letter in enumerate(others, 1):
        letter.pk, letter.generation = None, generation
    DeadLetter.objects.bulk_create(others, batch_size=1000)
    return list(DeadLetter.objects.filter(run=first.run_id).order_by("pk"))


def notice(*letters: DeadLetter) -> None:
    """Has the outbox tell of them."""
    for letter in letters:
        payload = {"run": letter.run_id, "publication": letter.publication, "generation": letter.generation}
        OutboxEntryFactory(payload=payload)
    outbox.carry_out()


def windows(status: OutboxStatus = OutboxStatus.PENDING) -> list[OutboxEntry]:
    return list(OutboxEntry.objects.filter(kind=OutboxKind.ALERT, status=status).order_by("pk"))


def end_windows() -> None:
    """As if their time, or that until the next try, had passed."""
    past = timezone.now() - timedelta(seconds=1)
    OutboxEntry.objects.filter(kind=OutboxKind.ALERT).update(available_at=past)
    outbox.carry_out()


def ours(mails: list[EmailMessage]) -> list[EmailMessage]:
    """Without those that Django's own logging sends of a receiver that fails."""
    return [mail for mail in mails if "ERROR" not in mail.subject]


def test_ten_thousand_failures_are_one_mail(database: str, mailoutbox: list[EmailMessage]) -> None:
    alerts.mail_admins(window=60)
    letters = die(MANY)
    notice(*letters[::100])

    assert mailoutbox == []
    (window,) = windows()
    assert timedelta(seconds=50) < window.available_at - timezone.now() <= timedelta(seconds=60)
    end_windows()
    (mail,) = mailoutbox
    assert mail.to == ["ops@example.com"]
    assert mail.subject == "[Django] 10,000 dead letters of shop.tasks.price: Retries used up"
    assert "10,000 open" in mail.body
    assert "Newest: shop.errors.SupplierDown: 503" in mail.body


def test_a_message_counts_up_to_a_bound(
    database: str, mailoutbox: list[EmailMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "COUNTED_AT_MOST", 3)
    alerts.mail_admins()
    notice(*die(5))
    end_windows()

    assert "at least 3 dead letters of" in mailoutbox[0].subject


def test_two_causes_are_two_messages(database: str, mailoutbox: list[EmailMessage]) -> None:
    alerts.mail_admins()
    notice(*die(2), *die(3, exception_type="shop.errors.CardRefused"), *die(4, run__task_name="shop.tasks.charge"))
    end_windows()

    assert sorted(mail.subject.split(":")[0] for mail in mailoutbox) == [
        "[Django] 2 dead letters of shop.tasks.price",
        "[Django] 3 dead letters of shop.tasks.price",
        "[Django] 4 dead letters of shop.tasks.charge",
    ]


def test_each_channel_has_a_window_and_a_message_of_its_own(
    database: str, mailoutbox: list[EmailMessage], webhook: Webhook
) -> None:
    alerts.mail_admins(window=3600)
    alerts.post_to_webhook(webhook.url, name="ops")
    alerts.post_to_webhook(f"{webhook.url}/dev", name="dev")
    notice(*die(2))

    assert len({window.key for window in windows()}) == 3
    end_windows()
    assert (len(mailoutbox), len(webhook.posted)) == (1, 2)


def test_a_window_outlives_the_process_that_opened_it(
    database: str, mailoutbox: list[EmailMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts.mail_admins()
    notice(*die(2))
    monkeypatch.setattr(room, "_channels", {})
    alerts.mail_admins()
    notice(*die(1, run__task_name="shop.tasks.charge"))
    end_windows()

    assert len(mailoutbox) == 2


def test_after_a_message_the_next_failure_opens_the_next_window(database: str, mailoutbox: list[EmailMessage]) -> None:
    alerts.mail_admins()
    for count in (3, 1):
        notice(*die(count))
        end_windows()

    assert [mail.subject.split()[1] for mail in mailoutbox] == ["3", "1"]
    assert "1 dead letter of" in mailoutbox[1].subject
    assert windows() == []


class LateBackend(EmailBackend):
    """While the first message is on its way, somebody else's task dies."""

    arriving: ClassVar[list[Callable[[], None]]] = []

    def send_messages(self, messages: Any) -> int:
        while self.arriving:
            self.arriving.pop()()
        return super().send_messages(messages)


def test_what_dies_after_the_count_belongs_to_the_next_message(
    database: str, settings: Settings, mailoutbox: list[EmailMessage]
) -> None:
    backend = f"{__name__}.{LateBackend.__name__}"
    if django.VERSION >= (6, 1):
        settings.MAILERS = {"default": {"BACKEND": backend}}
    else:
        settings.EMAIL_BACKEND = backend
    alerts.mail_admins()
    notice(*die(2))
    LateBackend.arriving.append(lambda: room.gather(die(1)[0]))
    end_windows()
    end_windows()

    assert [mail.subject.split()[1] for mail in mailoutbox] == ["2", "1"]


def test_a_delivery_that_fails_twice_is_sent_once_with_all_that_died_meanwhile(database: str, webhook: Webhook) -> None:
    webhook.statuses = [500, 503]
    alerts.post_to_webhook(webhook.url, name="ops")
    notice(*die(3))
    end_windows()
    (window,) = windows()
    assert (window.tries, "HTTP 500" in window.error) == (1, True)
    notice(*die(2))
    assert len(windows()) == 2
    end_windows()
    (window,) = windows()
    assert "HTTP 503" in window.error
    end_windows()

    assert windows() == []
    assert [message["text"].split()[0] for message in webhook.posted] == ["3", "5", "5"]
    outbox.carry_out()
    assert len(webhook.posted) == 3


def test_a_window_that_is_due_tells_what_an_older_one_could_not(database: str, webhook: Webhook) -> None:
    webhook.statuses = [500]
    alerts.post_to_webhook(webhook.url)
    notice(*die(3))
    end_windows()
    notice(*die(2))
    older, newer = windows()
    assert older.available_at > timezone.now()
    OutboxEntry.objects.filter(pk=newer.pk).update(available_at=timezone.now() - timedelta(seconds=1))
    outbox.carry_out()

    assert webhook.posted[-1]["text"].startswith("5 dead letters of")
    assert windows() == []


def test_a_channel_that_is_off_for_long_does_not_silence_a_cause(
    database: str, mailoutbox: list[EmailMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts.mail_admins()
    notice(*die(2))
    OutboxEntry.objects.filter(kind=OutboxKind.ALERT).update(tries=outbox.MAX_TRIES - 1)
    monkeypatch.setattr(room, "_channels", {})
    end_windows()
    assert len(windows(OutboxStatus.FAILED)) == 1

    alerts.mail_admins()
    notice(*die(1))
    end_windows()
    assert "1 dead letter of" in mailoutbox[0].subject


def test_an_alert_that_is_given_up_does_not_silence_its_cause(database: str, webhook: Webhook) -> None:
    alerts.post_to_webhook(webhook.url)
    notice(*die(2))
    OutboxEntry.objects.filter(kind=OutboxKind.ALERT).update(tries=outbox.MAX_TRIES - 1)
    webhook.statuses = [500]
    end_windows()
    assert len(windows(OutboxStatus.FAILED)) == 1
    notice(*die(1))
    end_windows()

    assert webhook.posted[-1]["text"].startswith("1 dead letter of")


def test_a_webhook_gets_json_with_the_escapes_of_slack(database: str, webhook: Webhook) -> None:
    alerts.post_to_webhook(webhook.url, base_url="https://shop.example/")
    (letter,) = die(1, description="SupplierDown: <!channel> & co")
    notice(letter)
    end_windows()

    lines = webhook.posted[0]["text"].splitlines()
    assert webhook.types == ["application/json; charset=utf-8"]
    assert lines == [
        "1 dead letter of shop.tasks.price: Retries used up",
        "Exception: shop.errors.SupplierDown",
        f"At {letter.died_at:%Y-%m-%d %H:%M:%S} UTC",
        "By now: 1 open",
        "Newest: SupplierDown: &lt;!channel&gt; &amp; co",
        "https://shop.example/admin/taskops/deadletter/?task_name=shop.tasks.price",
    ]


@pytest.fixture
def silent_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Connects and never answers."""
    monkeypatch.setattr(channels, "WEBHOOK_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("port", "status", "error"),
    [
        ("webhook", 404, "HTTP 404"),
        ("webhook", 302, "HTTP 302"),
        ("silent", 0, "TimeoutError"),
        ("closed", 0, "ConnectionRefusedError"),
    ],
)
def test_the_address_of_a_webhook_is_nowhere_when_it_fails(
    database: str,
    webhook: Webhook,
    silent_port: int,
    caplog: pytest.LogCaptureFixture,
    port: str,
    status: int,
    error: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    ports = {"webhook": webhook.server_port, "silent": silent_port, "closed": 1}
    webhook.statuses = [status]
    alerts.post_to_webhook(f"http://127.0.0.1:{ports[port]}/services/{SECRET}", name="ops")
    notice(*die())
    end_windows()

    (window,) = windows()
    assert window.error == (
        f"AlertNotSent: expected 'webhook:ops' to take the message, got {error}; its address is not shown"
    )
    assert "failed, try 1" in caplog.text
    assert SECRET not in caplog.text
    assert SECRET not in repr(list(OutboxEntry.objects.values()))
    assert SECRET not in repr(room._channels)


@pytest.mark.django_db(transaction=True)
def test_two_housekeepers_at_once_send_one_message(database: str, webhook: Webhook) -> None:
    alerts.post_to_webhook(webhook.url)
    notice(*die(5))
    OutboxEntry.objects.filter(kind=OutboxKind.ALERT).update(available_at=timezone.now() - timedelta(seconds=1))
    barrier = Barrier(2)

    def keep_house() -> int:
        try:
            barrier.wait(timeout=30)
            return outbox.carry_out()
        finally:
            connections[database].close()

    with ThreadPoolExecutor(2) as threads:
        done = sum(future.result() for future in [threads.submit(keep_house) for _ in range(2)])

    assert (done, len(webhook.posted)) == (1, 1)


def test_a_process_without_the_channel_says_so_and_leaves_it_to_others(
    database: str, mailoutbox: list[EmailMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts.mail_admins()
    notice(*die(2))
    monkeypatch.setattr(room, "_channels", {})
    end_windows()
    (window,) = windows()
    assert "expected the alerts 'mail' to be switched on in this process, got none" in window.error

    alerts.mail_admins()
    end_windows()
    assert "2 dead letters" in mailoutbox[0].subject


def test_a_mail_to_nobody_is_not_taken_for_sent(database: str, settings: Settings) -> None:
    settings.ADMINS = []
    alerts.mail_admins()
    notice(*die())
    end_windows()

    assert "expected somebody in ADMINS" in windows()[0].error


def test_a_letter_that_is_committed_late_is_told_with_those_after_it(
    database: str, mailoutbox: list[EmailMessage]
) -> None:
    """Its primary key is lower than that of the letter that opened the window."""
    alerts.mail_admins()
    early, middle, late = die(3)
    for letter in (late, early, middle):
        notice(letter)
    end_windows()

    (mail,) = mailoutbox
    assert mail.subject.startswith("[Django] 3 dead letters of")


def test_a_letter_that_is_committed_when_the_message_begins_is_told(
    database: str, mailoutbox: list[EmailMessage]
) -> None:
    alerts.mail_admins()
    early, late = die(2)
    room.gather(late)
    (window,) = windows()
    room.gather(early)
    room.send(window)

    (mail,) = mailoutbox
    assert mail.subject.startswith("[Django] 2 dead letters of")
    assert windows()[0].payload["first"] == early.pk


def test_what_is_not_open_any_more_is_counted_and_told(database: str, mailoutbox: list[EmailMessage]) -> None:
    alerts.mail_admins()
    letters = die(4)
    notice(*letters)
    for letter, status in zip(letters, [LetterStatus.REQUEUED, LetterStatus.RESOLVED], strict=False):
        DeadLetter.objects.filter(pk=letter.pk).update(status=status)
    end_windows()

    assert "4 dead letters" in mailoutbox[0].subject
    assert "By now: 2 open, 1 requeued, 1 resolved" in mailoutbox[0].body


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ([LetterStatus.RESOLVED, LetterStatus.RESOLVED], "None is open any more: all have succeeded since"),
        ([LetterStatus.RESOLVED, LetterStatus.DISCARDED], "None is open any more: 1 resolved, 1 discarded"),
    ],
)
def test_people_are_told_even_where_nothing_is_left_to_do(
    database: str, mailoutbox: list[EmailMessage], statuses: list[LetterStatus], told: str
) -> None:
    alerts.mail_admins()
    letters = die(2)
    notice(*letters)
    for letter, status in zip(letters, statuses, strict=True):
        DeadLetter.objects.filter(pk=letter.pk).update(status=status)
    end_windows()

    assert told in mailoutbox[0].body


def test_the_first_letter_is_told_even_where_its_reason_has_changed_since(
    database: str, mailoutbox: list[EmailMessage]
) -> None:
    alerts.mail_admins()
    (letter,) = die()
    notice(letter)
    DeadLetter.objects.filter(pk=letter.pk).update(reason="worker_lost", exception_type="")
    end_windows()

    assert "1 dead letter of shop.tasks.price" in mailoutbox[0].subject


def test_details_leave_out_the_text_of_the_exception_and_arguments_are_never_told(
    database: str, mailoutbox: list[EmailMessage], webhook: Webhook
) -> None:
    alerts.mail_admins(details=False)
    alerts.post_to_webhook(webhook.url)
    notice(*die(1, description=f"SupplierDown: {'x' * 400}", run__args=["4111"], run__kwargs={"card": "4111"}))
    end_windows()

    assert "SupplierDown" in mailoutbox[0].body
    assert "xxx" not in mailoutbox[0].body
    assert f"Newest: SupplierDown: {'x' * 285}…" in webhook.posted[0]["text"].splitlines()
    assert "4111" not in mailoutbox[0].body + webhook.posted[0]["text"]


def test_a_task_may_have_any_name(database: str, mailoutbox: list[EmailMessage]) -> None:
    alerts.mail_admins(base_url="https://shop.example")
    notice(*die(1, run__task_name="shop\nBcc: all@example.com"), *die(1, run__task_name="", run__exception_type=""))
    end_windows()

    assert sorted(mail.subject for mail in mailoutbox) == [
        "[Django] 1 dead letter of ?: Retries used up",
        "[Django] 1 dead letter of shop Bcc: all@example.com: Retries used up",
    ]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_without_an_admin_there_is_no_link(database: str, settings: Settings, mailoutbox: list[EmailMessage]) -> None:
    settings.ROOT_URLCONF = "django_taskops.urls"
    alerts.mail_admins(base_url="https://shop.example")
    notice(*die())
    end_windows()

    assert "https://" not in mailoutbox[0].body


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_times_are_those_of_the_project(database: str, settings: Settings, mailoutbox: list[EmailMessage]) -> None:
    settings.USE_TZ = False
    alerts.mail_admins()
    died = timezone.now().replace(year=2026, month=1, day=2, hour=3, minute=4, second=5, microsecond=0)
    notice(*die(1, run__published=died - timedelta(seconds=3)))
    end_windows()

    assert "At 2026-01-02 03:04:05\n" in mailoutbox[0].body


def test_a_receiver_of_the_project_that_fails_does_not_have_it_told_again(
    database: str, mailoutbox: list[EmailMessage]
) -> None:
    def fail(**_kwargs: Any) -> None:
        raise ConnectionError("down")

    alerts.mail_admins()
    task_dead_lettered.connect(fail)
    try:
        notice(*die())
        end_windows()
        OutboxEntry.objects.update(available_at=timezone.now() - timedelta(seconds=1))
        outbox.carry_out()
    finally:
        task_dead_lettered.disconnect(fail)

    assert OutboxEntry.objects.get(kind=OutboxKind.DEAD_LETTERED).tries == 2
    assert windows() == []
    assert len(ours(mailoutbox)) == 1


def test_a_blind_recorder_is_one_message_for_each_channel(
    database: str, mailoutbox: list[EmailMessage], webhook: Webhook
) -> None:
    def fail(**_kwargs: Any) -> None:
        raise ConnectionError("down")

    webhook.statuses = [500]
    alerts.mail_admins(base_url="https://shop.example")
    alerts.post_to_webhook(webhook.url)
    payload = {"reason": "lag", "detail": "events waited for up to 90 s", "since": timezone.now().isoformat()}
    OutboxEntryFactory(kind=OutboxKind.BLIND, key="recorder_blind:lag:1", payload=payload)
    recorder_blind.connect(fail)
    try:
        for _ in range(3):
            outbox.carry_out()
            OutboxEntry.objects.update(available_at=timezone.now() - timedelta(seconds=1))
    finally:
        recorder_blind.disconnect(fail)

    (mail,) = ours(mailoutbox)
    assert mail.subject == "[Django] The recorder is blind: events waited for up to 90 s"
    assert "https://shop.example/admin/taskops/recorder/" in mail.body
    assert len(webhook.posted) == 2
    assert webhook.posted[0] == webhook.posted[1]


def test_a_letter_that_heals_is_no_news(database: str, mailoutbox: list[EmailMessage]) -> None:
    story = Story()
    writer.apply([story.published(), story.failed()])
    outbox.carry_out()
    alerts.mail_admins()
    writer.apply([story.requeued().started(), story.succeeded()])
    assert outbox.carry_out() == 1

    assert windows() == []


def test_without_alerts_nothing_is_written(database: str) -> None:
    notice(*die())

    assert windows() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"url": f"ftp://{SECRET}"}, "url: expected the address of a webhook, .* got another str; copy it"),
        ({"url": f"hooks.example/{SECRET}"}, "beginning with https:// or http://"),
        ({"url": f"https://hooks.example/{SECRET} x"}, "url: expected"),
        ({"url": f"https://user:{SECRET}@hooks.example/"}, "without user and password"),
        ({"url": f"https://hooks.example:{SECRET}/"}, "url: expected"),
        ({"url": f"https://[hooks/{SECRET}"}, "url: expected"),
        ({"url": "https://"}, "url: expected"),
        ({"url": None}, "got None"),
        ({"name": f"https://hooks.example/{SECRET}"}, "name: expected up to 40 small letters, .* got another str"),
        ({"name": ""}, "name: expected"),
        ({"window": 0}, "window: expected a number of seconds above 0, of at most 86400, got 0; 60 is the default"),
        ({"window": 86_401}, "got 86401"),
        ({"window": float("nan")}, "got nan"),
        ({"window": True}, "got True"),
        ({"window": "60"}, "got another str"),
        ({"details": "no"}, "details: expected True or False"),
        ({"base_url": "shop.example"}, "base_url: expected an address such as 'https://shop.example', or None"),
    ],
)
def test_an_argument_that_can_not_be_is_refused_without_quoting_it(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(alerts.InvalidAlert, match=words) as caught:
        alerts.post_to_webhook(**{"url": f"https://hooks.example/{SECRET}", **arguments})

    assert isinstance(caught.value, TaskOpsError)
    assert SECRET not in str(caught.value)
    assert room._channels == {}


def test_a_name_stands_for_one_webhook() -> None:
    alerts.post_to_webhook(f"https://hooks.example/{SECRET}", name="ops")
    alerts.post_to_webhook(f"https://hooks.example/{SECRET}", name="ops")
    with pytest.raises(alerts.InvalidAlert, match=r"'webhook:ops' again, with other arguments; .* of its own"):
        alerts.post_to_webhook(f"https://hooks.example/{SECRET}2", name="ops")

    assert list(room._channels) == ["webhook:ops"]


def test_the_public_names_are_exactly_these() -> None:
    assert set(alerts.__all__) == {"AlertNotSent", "InvalidAlert", "mail_admins", "post_to_webhook"}
    for name in alerts.__all__:
        assert getattr(alerts, name)
