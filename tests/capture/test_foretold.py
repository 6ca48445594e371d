"""What is told of a body's end before Celery is done with it. tests/lifecycle has real workers."""

from collections.abc import Iterator
from threading import Thread
from typing import Any, NoReturn

import pytest
from celery.exceptions import Retry
from pytest_django import Settings

from django_taskops import journal
from django_taskops.capture import foretold, lifecycle
from django_taskops.capture.redaction import NOT_SHOWN
from django_taskops.capture.span import Span, spans
from tests.events import START
from tests.journal.streams import Elsewhere
from tests.tasks import Declined, add
from tests.workers import eventually

STEP = {"task": "tests.tasks.add", "options": {"task_id": "next"}}


@pytest.fixture
def told() -> Iterator[Elsewhere]:
    """What this process appends meanwhile, while `add` has a request."""
    elsewhere = Elsewhere()
    usual = journal.use(elsewhere)
    task: Any = add
    task.push_request(id="a", called_directly=False, is_eager=False, children=[], hostname="w", retries=0)
    yield elsewhere
    task.pop_request()
    journal.use(usual)


def test_it_is_told_though_the_task_ends_just_then(told: Elsewhere) -> None:
    """The thread that executes it has forgotten its span by now."""
    lifecycle.foretell(add, Span("d1", returned=True))
    lifecycle.foretell(add, Span("d2", raised=Declined("no")))

    assert [(getattr(event, "delivery", ""), event.kind) for event in told.events] == [
        ("d1", "returned"),
        ("d2", "failed"),
    ]


def test_a_result_that_cannot_be_displayed_does_not_cost_the_ending(told: Elsewhere, settings: Settings) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "REDACT": [7]}  # no text
    lifecycle.end(add, "SUCCESS", "x")

    assert [event.kind for event in told.events] == ["started", "succeeded"]
    assert told.events[-1].outcome.result == NOT_SHOWN  # type: ignore[union-attr]


def test_a_body_that_returns_after_it_has_sent_a_retry_has_not_succeeded(told: Elsewhere) -> None:
    retry = Retry(exc=Declined("no"), when=START)
    lifecycle.foretell(add, Span("d1", returned=True, retry_sent=retry, chain=(STEP,)))
    spans[add.request] = Span("d1", returned=True, retry_sent=retry)
    lifecycle.end(add, "SUCCESS", "goes on")

    assert [event.kind for event in told.events] == ["retried", "retried"]
    assert told.events[-1].outcome.retry_at == START  # type: ignore[union-attr]


def test_nothing_is_told_of_a_step_whose_next_one_was_not_sent(told: Elsewhere) -> None:
    lifecycle.foretell(add, Span("d1", returned=True, chain=(STEP,)))
    add.request.update(callbacks=[STEP])
    lifecycle.foretell(add, Span("d2", returned=True))

    assert told.events == []


def test_a_thread_that_cannot_be_started_is_tried_again_and_what_waits_for_it_is_bounded(
    told: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    foretold._renew()
    with monkeypatch.context() as crowded:
        crowded.setattr(Thread, "start", _no_thread_left)
        for number in range(foretold.MAX_WATCHED + 1):
            foretold.watch(add, Span(f"d{number}", returned=True))
    foretold.watch(add, Span("last", returned=True))

    eventually(lambda: len(told.events) == foretold.MAX_WATCHED)
    assert [getattr(told.events[place], "delivery", "") for place in (0, -1)] == ["d2", "last"]


def _no_thread_left(_thread: Thread) -> NoReturn:
    raise RuntimeError("can't start new thread")
