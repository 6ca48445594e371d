"""What is told of a body's end, before Celery is done with it and then. tests/lifecycle has real workers."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any, NoReturn

import pytest
from celery import _state
from celery.exceptions import Retry, SoftTimeLimitExceeded
from pytest_django import Settings

from django_taskops import journal
from django_taskops.capture import foretold, lifecycle, receivers
from django_taskops.capture.redaction import NOT_SHOWN
from django_taskops.capture.span import Span, spans
from tests.events import START
from tests.journal.streams import Elsewhere
from tests.tasks import Declined, add, fail
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


class Struck:
    """The soft time limit strikes while it is displayed."""

    def __repr__(self) -> NoReturn:
        raise SoftTimeLimitExceeded


def test_an_end_is_told_though_the_soft_time_limit_strikes_meanwhile(told: Elsewhere) -> None:
    spans[add.request] = span = Span("d1", returned=True)
    receivers.task_postrun(task=add, state="SUCCESS", retval=Struck())

    assert [(event.kind, event.outcome.result) for event in told.events] == [("succeeded", NOT_SHOWN)]  # type: ignore[union-attr]
    assert span.ended


def test_an_end_that_could_not_be_told_is_left_to_the_watcher(told: Elsewhere, broken_journal: None) -> None:
    spans[add.request] = span = Span("d1", returned=True)
    receivers.task_postrun(task=add, state="SUCCESS", retval=1)

    assert not span.ended


def test_a_limit_that_strikes_in_a_task_that_was_called_is_its_callers(told: Elsewhere, strikes: list[int]) -> None:
    spans[add.request] = Span("d1")
    with running(add), running(fail):

        @lifecycle.limit_goes_on
        def receiver() -> NoReturn:
            raise SoftTimeLimitExceeded

        receiver()

    eventually(lambda: strikes)


@pytest.fixture
def strikes() -> Iterator[list[int]]:
    """How often the soft time limit has been delivered to this process."""
    struck: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: struck.append(number))
    yield struck
    signal.signal(signal.SIGUSR1, before)


@contextmanager
def running(task: Any) -> Iterator[None]:
    stack: Any = vars(_state)["_task_stack"]
    stack.push(task)
    yield
    stack.pop()


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
