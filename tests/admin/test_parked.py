"""A letter that is parked says so: on the list, on its page, before a decision."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from kombu.utils import json

from django_taskops.capture.envelope import Envelope
from django_taskops.models import DeadLetter, OutboxStatus
from django_taskops.recovery import discard, parking
from django_taskops.states import LetterStatus
from tests.admin.pages import Page
from tests.factories import DeadLetterFactory, TaskRunFactory, envelope_of

LIFETIME = timedelta(seconds=600)  # `result_expires` of the tests
CHORD = {"task": "tests.tasks.collect", "options": {"task_id": "body"}}


def page_of(client: Client, letter: DeadLetter) -> Page:
    return Page(client.get(reverse("admin:taskops_deadletter_change", args=[letter.pk])))


def asked(client: Client, verb: str, letter: DeadLetter) -> Page:
    return Page(client.get(reverse(f"admin:taskops_deadletter_{verb}"), {"letter": letter.pk}))


def member_of_a_chord(**facts: Any) -> DeadLetter:
    """A parked letter for which a chord waits."""
    run = TaskRunFactory(failed=True, group_id="g", published=timezone.now() - timedelta(hours=2))
    letter = DeadLetterFactory(run=run, parked=True, **facts)
    letter.envelope = in_group(letter, {"chord": CHORD})
    letter.save()
    return letter


def in_group(letter: DeadLetter, embed: dict[str, Any]) -> bytes:
    plain = Envelope.from_bytes(envelope_of(letter.task_id, letter.publication))
    empty = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return Envelope(
        body=json.dumps([[], {}, empty | embed]).encode(),
        content_type=plain.content_type,
        content_encoding=plain.content_encoding,
        headers={**plain.headers, "group": "g"},
        properties=plain.properties,
        exchange="",
        routing_key="celery",
        queue="celery",
    ).to_bytes()


def returned(ago: timedelta) -> None:
    """Another member of the chord has succeeded that long ago."""
    TaskRunFactory(succeeded=True, group_id="g", args=["another"], finished_at=timezone.now() - ago)


def test_the_list_and_the_page_say_that_celery_waits(desk: Client) -> None:
    letter = DeadLetterFactory(parked=True)
    DeadLetterFactory()

    assert Page(desk.get(reverse("admin:taskops_deadletter_changelist"))).text.count("parked") == 1
    text = page_of(desk, letter).text
    assert "Celery's result backend has not been told of this failure" in text
    assert "link_error and callers of get() see nothing of it and wait" in text
    assert "chord waits" not in text


@pytest.mark.parametrize(
    ("ago", "said", "warns"),
    [
        (timedelta(minutes=1), "the result backend keeps its keys until", False),
        (timedelta(minutes=8), "requeue it before", True),
        (timedelta(minutes=11), "its body may never run", True),
    ],
)
def test_the_page_says_until_when_the_chord_can_wait(desk: Client, ago: timedelta, said: str, *, warns: bool) -> None:
    letter = member_of_a_chord()
    returned(ago)
    returned(timedelta(hours=1))
    page = page_of(desk, letter)

    assert said in page.text
    assert f"{timezone.now() - ago + LIFETIME:%Y-%m-%d %H:%M}" in page.text
    assert any(tag.get("class") == "taskops-note" for tag in page.all("p")) is warns


def test_where_no_part_has_returned_the_publish_counts(desk: Client) -> None:
    assert "its body may never run" in page_of(desk, member_of_a_chord()).text


def test_a_chain_that_ends_in_a_chord_keeps_it_waiting_too(desk: Client) -> None:
    letter = member_of_a_chord()
    letter.envelope = in_group(letter, {"chain": [{"task": "t", "options": {"chord": CHORD, "group_id": "g"}}]})
    letter.save()
    returned(timedelta(minutes=1))

    assert "the result backend keeps its keys until" in page_of(desk, letter).text


def test_before_a_requeue_it_says_that_what_waits_goes_on(desk: Client) -> None:
    letter = member_of_a_chord()
    returned(timedelta(minutes=1))
    text = asked(desk, "requeue", letter).text

    assert "what waits for it goes on when it succeeds" in text
    assert "A chord waits for it" in text
    assert "has failed already" not in text


def test_before_a_discard_it_says_that_the_failure_is_let_through(desk: Client) -> None:
    assert "its failure is let through to Celery now" in asked(desk, "discard", DeadLetterFactory(parked=True)).text
    unkept = DeadLetterFactory(parked=True, without_envelope=True)
    assert "Its message was not kept" in asked(desk, "discard", unkept).text
    assert "let through" not in asked(desk, "discard", DeadLetterFactory()).text


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({}, "is about to be let through to Celery by a worker"),
        ({"error": "ConnectionError: away"}, "Celery could not be told of its failure: ConnectionError: away"),
        ({"status": OutboxStatus.DONE, "payload": {"needless": True}}, "Celery was not told of its failure, since"),
        ({"status": OutboxStatus.DONE}, "Its failure was let through to Celery, as decided at"),
    ],
)
def test_what_became_of_the_failure_is_said_after_a_discard_and_before_a_restore(
    desk: Client, order: dict[str, Any], said: str
) -> None:
    letter = DeadLetterFactory(parked=True)
    discard(letter)
    parking.orders(letter).update(**order)

    assert letter.status == LetterStatus.DISCARDED
    assert said in page_of(desk, letter).text
    assert said in asked(desk, "restore", letter).text
