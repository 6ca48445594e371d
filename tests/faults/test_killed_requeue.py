"""Many letters are put back by processes that are killed, or that race: each decision is carried out once."""

import json
import os
import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from django.utils import timezone

from django_taskops.models import DeadLetter, OutboxEntry, OutboxKind, OutboxStatus, TaskRun
from django_taskops.recovery.interrupted import finish_interrupted
from django_taskops.states import LetterStatus, TaskState
from tests import tasks
from tests.faults.processes import environment, python
from tests.recovery.test_requeue import letter_of
from tests.workers import BrokerQueue, WorkerStarter, eventually

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
]

LETTERS = int(os.environ.get("TASKOPS_TEST_LETTERS", "120"))
DEATHS = 10
ROUNDS = int(os.environ.get("TASKOPS_TEST_ROUNDS", "2"))
SEED = 20_261_128


class Death(NamedTuple):
    point: str
    times: int
    when: str


UNHARMED = Death("never", 0, "")
EACH = LETTERS // DEATHS


def deaths() -> list[Death]:
    """The same in each run of the tests. Each comes in a batch of a tenth of the letters."""
    dice = random.Random(SEED)
    places = ["commit", "take", "hold", "supersede", "confirm", "settle", *["publish"] * 4]
    dice.shuffle(places)
    return [
        Death(point, dice.randint(1, EACH) if point == "publish" else 1, dice.choice(("before", "after")))
        for point in places
    ]


@pytest.fixture
def letters(database: str, queue: BrokerQueue) -> list[str]:
    """The keys of tasks that are broken until they are healed, which they are by now."""
    keys = [f"{queue.name}-{number}" for number in range(LETTERS)]
    for key in keys:
        letter_of(queue, lambda key=key: tasks.broken_until_healed.delay(key))  # type: ignore[misc]
        tasks.heal(key)
    return keys


def test_a_command_that_is_killed_ten_times_and_started_again_starts_each_task_once(
    letters: list[str], queue: BrokerQueue, start_worker: WorkerStarter, tmp_path: Path
) -> None:
    assert _requeue(tmp_path, deaths(), "--limit", str(EACH)) == [-9] * DEATHS
    assert _requeue(tmp_path, [UNHARMED]) in ([0], [4])
    assert not DeadLetter.objects.filter(status=LetterStatus.OPEN).exists()
    _finish_what_was_interrupted()
    start_worker(concurrency=2)

    eventually(lambda: TaskRun.objects.filter(state=TaskState.SUCCESS).count() == LETTERS, 60)
    eventually(lambda: len(queue) == 0)
    assert [tasks.calls(key) for key in letters] == [1] * LETTERS
    assert set(TaskRun.objects.values_list("generation", flat=True)) == {1}


def test_two_processes_with_the_same_letters_send_each_once(
    letters: list[str], queue: BrokerQueue, tmp_path: Path
) -> None:
    for turn in range(ROUNDS):
        arguments = _arguments([UNHARMED])
        logs = [tmp_path / f"{turn}-{number}.log" for number in range(2)]
        with (
            python(logs[0], *arguments, given=environment()) as one,
            python(logs[1], *arguments, given=environment()) as other,
        ):
            codes = {json.loads(each.output(60).splitlines()[-1])[0] for each in (one, other)}
        assert codes <= {0, 3, 4}
        assert sorted(queue.task_ids()) == sorted(TaskRun.objects.values_list("task_id", flat=True))
        queue.drop()
        DeadLetter.objects.update(status=LetterStatus.OPEN)


def _arguments(deaths: Sequence[Death], *options: str) -> list[str]:
    return ["-m", "tests.faults.dying_requeue", json.dumps(deaths), "--task", "*", "--json", *options]


def _requeue(folder: Path, deaths: Sequence[Death], *options: str) -> list[int]:
    """The exit codes; -9 where the point was reached."""
    with python(folder / "requeue.log", *_arguments(deaths, *options), given=environment()) as process:
        codes: list[int] = json.loads(process.output(60).splitlines()[-1])
    return codes


def _finish_what_was_interrupted() -> None:
    """As the housekeeper does, a minute later."""
    earlier = timezone.now() - timedelta(minutes=2)
    pending = OutboxEntry.objects.filter(kind=OutboxKind.REQUEUE, status=OutboxStatus.PENDING)
    while pending.exists():
        pending.update(created_at=earlier, available_at=earlier)
        finish_interrupted()
