"""What the admin hands over is carried out by the housekeeper of a real worker."""

from uuid import uuid4

import pytest

from django_taskops.models import AuditAction, DeadLetter, OutboxStatus
from django_taskops.recovery import bulk
from django_taskops.recovery.decide import Decided, Person
from django_taskops.recovery.intents import Order
from django_taskops.recovery.message import Changes
from tests import tasks
from tests.workers import Worker, eventually


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_a_worker_carries_out_what_was_handed_over(worker: Worker) -> None:
    key = uuid4().hex
    results = [tasks.broken_until_healed.delay(key) for _ in range(5)]
    eventually(lambda: DeadLetter.objects.count() == 5)
    tasks.heal(key)
    order = Order(changes=Changes.checked(attempts="once"), decided=Decided(Person("1", "li"), "healed"))
    bulk.hand_over("k", AuditAction.REQUEUE, list(DeadLetter.objects.values_list("pk", flat=True)), order)

    eventually(lambda: bulk.newest(1)[0].status == OutboxStatus.DONE)
    assert bulk.newest(1)[0].done == 5
    eventually(lambda: all(result.successful() for result in results))
