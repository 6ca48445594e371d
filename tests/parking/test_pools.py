"""Pools without processes: what can end a task there is parked like anywhere."""

from typing import Any

import pytest
from celery import chord

from django_taskops.models import DeadLetter
from django_taskops.recovery import discard, requeue
from django_taskops.states import DeadLetterReason
from tests.lifecycle.cases import key
from tests.parking import tasks as parked
from tests.tasks import add, heal
from tests.workers import WorkerStarter, eventually

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
]


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_what_ends_a_task_is_parked(start_worker: WorkerStarter, pool: str) -> None:
    start_worker(pool=pool)
    name = key()
    header = [add.si(1, 2), parked.early.si(name, "exception"), parked.late.si(name, "retries")]
    body: Any = chord(header)(parked.follow.s(name))
    given_up = parked.early.delay(key(), "rejected")
    letters = [
        eventually(lambda i=each.id: DeadLetter.objects.get(task_id=i, parked=True))  # type: ignore[misc]
        for each in [*body.parent.results[1:], given_up]
    ]
    reasons = [DeadLetterReason.NON_RETRYABLE, DeadLetterReason.EXHAUSTED, DeadLetterReason.REJECTED]
    assert [letter.reason for letter in letters] == reasons
    assert (body.state, given_up.state) == ("PENDING", "PENDING")

    heal(name)
    for letter in letters[:2]:
        requeue(letter)
    discard(letters[2])
    assert body.get(timeout=30, interval=0.1) == [[3, f"{name} healed", f"{name} healed"], 1]
    eventually(lambda: given_up.state == "FAILURE")
