"""What speaks against a requeue is said before anything is sent, and can be overridden where that is safe."""

from datetime import timedelta
from typing import Any

import pytest
from celery import current_app
from django.db import connections
from django.utils import timezone

from django_taskops.capture.envelope import Envelope
from django_taskops.exceptions import NotRequeueable
from django_taskops.models import DeadLetter, TaskRun
from django_taskops.recovery import preflight, requeue
from tests import tasks
from tests.factories import DeadLetterFactory, TaskRunFactory
from tests.recovery.beats import alive
from tests.recovery.test_requeue import letter_of, refusal_of
from tests.workers import BrokerQueue

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def letter(database: str, queue: BrokerQueue) -> DeadLetter:
    return letter_of(queue, lambda: tasks.fail.delay("out of stock"))


def succeed_later(letter: DeadLetter, minutes: float = 3, **call: Any) -> Any:
    """Another run of the letter's task, with its arguments unless told otherwise, that succeeded after it died."""
    published = letter.died_at + timedelta(minutes=minutes)
    call = {"args": letter.run.args, "kwargs": letter.run.kwargs, **call}
    return TaskRunFactory(task_name=letter.task_name, published=published, succeeded=True, **call)


def test_what_has_been_done_since_is_not_done_again(letter: DeadLetter, queue: BrokerQueue) -> None:
    succeed_later(letter, minutes=30)
    first = succeed_later(letter)
    refusal = refusal_of(letter)

    assert refusal.code == "healed"
    assert f"healed 3\xa0minutes later by {first.task_id}" in refusal.detail
    assert requeue(letter, force=True).outcome == "sent"


@pytest.mark.parametrize(
    ("minutes", "call"),
    [
        (3, {"args": ["another order"]}),
        (3, {"kwargs": {"password": "[redacted]"}}),
        (-3, {}),
    ],
    ids=["other arguments", "masked arguments", "before it died"],
)
def test_other_successes_prove_nothing(letter: DeadLetter, minutes: float, call: dict[str, Any]) -> None:
    succeed_later(letter, minutes, **call)

    assert requeue(letter).outcome == "sent"


def test_what_was_sent_since_under_the_same_id_says_nothing_of_the_letters_arguments(letter: DeadLetter) -> None:
    """An edited re-run that was revoked: the run shows its arguments, and another task has succeeded with them."""
    TaskRun.objects.filter(pk=letter.run_id).update(generation=1, args=["edited"])
    letter.run.refresh_from_db()
    succeed_later(letter)

    assert requeue(letter).outcome == "sent"


def test_equal_secrets_can_not_be_told_from_different_ones(letter: DeadLetter) -> None:
    letter.run.kwargs = {"password": "[redacted]"}
    letter.run.save()
    succeed_later(letter)

    assert requeue(letter).outcome == "sent"


def test_a_task_that_no_live_worker_has_registered_would_only_die_again(letter: DeadLetter) -> None:
    beat = alive(tasks=["tests.tasks.add"])
    assert refusal_of(letter).code == "unregistered"

    beat.tasks = ["tests.tasks.add", letter.task_name]
    beat.save()
    assert requeue(letter).outcome == "sent"


@pytest.mark.parametrize(
    "beat",
    [{"stopped_at": timezone.now()}, {"tasks": []}],
    ids=["nobody lives", "one does not say what it has"],
)
def test_what_is_not_known_of_the_workers_refuses_nothing(letter: DeadLetter, beat: dict[str, Any]) -> None:
    alive(**{"tasks": ["tests.tasks.add"], **beat})

    assert requeue(letter).outcome == "sent"


def test_arguments_that_do_not_fit_any_more_are_found_before_the_send(letter: DeadLetter, queue: BrokerQueue) -> None:
    task: Any = current_app.tasks[letter.task_name]
    fits = task.__header__
    try:
        task.__header__ = _price
        refusal = refusal_of(letter)
        assert (refusal.code, "currency" in refusal.detail) == ("bad_arguments", True)
        assert requeue(letter, kwargs={"currency": "EUR"}).outcome == "sent"
    finally:
        task.__header__ = fits


def _price(order: str, *, currency: str) -> None:
    """What the task has become since."""


def test_pickled_arguments_are_not_looked_at(letter: DeadLetter) -> None:
    """Reading them would run whatever they say."""
    original = Envelope.from_bytes(letter.envelope or b"")
    pickled = Envelope(
        body=b"cos\nsystem\n(S'exit 1'\ntR.",
        content_type="application/x-python-serialize",
        content_encoding="binary",
        headers=original.headers,
        properties={},
        exchange="",
        routing_key=original.routing_key,
        queue=original.queue,
    )
    DeadLetter.objects.update(envelope=pickled.to_bytes())

    assert requeue(letter).outcome == "sent"


def test_reasons_are_found_for_many_letters_at_once_with_a_few_queries(
    database: str, django_assert_max_num_queries: Any
) -> None:
    letters = DeadLetterFactory.create_batch(20, run__task_name="shop.tasks.price", task_name="shop.tasks.price")
    healed = letters[7]
    succeed_later(healed)
    found = list(DeadLetter.objects.select_related("run").order_by("pk"))
    with django_assert_max_num_queries(4, connection=connections[database]):
        refused = preflight.review(found)

    assert {refusal.code for refusal in refused.values()} == {"healed"}
    assert all(refusal.code in preflight.FORCEABLE for refusal in refused.values())
    assert isinstance(refused[healed.pk], NotRequeueable)
