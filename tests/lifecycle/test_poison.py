"""Messages that no worker could run keep their bytes, and run once one can."""

from functools import partial

import pytest

from django_taskops.exceptions import NotRequeueable
from django_taskops.models import DeadLetter
from django_taskops.recovery import requeue
from tests import tasks
from tests.lifecycle.cases import Published, run_of, send_raw
from tests.workers import WorkerStarter, eventually

pytestmark = pytest.mark.parametrize("database", ["default"], indirect=True)


def test_a_message_that_was_not_accepted_runs_where_it_is(start_worker: WorkerStarter) -> None:
    strict = start_worker()
    result = tasks.add.apply_async((1, 2), serializer="pickle")
    letter = eventually(lambda: DeadLetter.objects.get(task_id=result.id, reason="undecodable"))
    strict.stop()
    start_worker(celery={"accept_content": ["json", "pickle"]}, extra_env={"C_FORCE_ROOT": "1"})
    requeue(letter)

    run = eventually(lambda: run_of(result), message="its run")
    eventually(lambda: run_of(result).state == "SUCCESS")
    letter.refresh_from_db()
    assert (letter.status, run.dead_letters.count()) == ("resolved", 1)


def letter_of(published: Published) -> DeadLetter:
    run = eventually(partial(run_of, published))
    return eventually(run.dead_letters.first)


def test_a_message_without_an_id_runs_under_the_one_that_its_run_was_given(start_worker: WorkerStarter) -> None:
    worker = start_worker()
    nameless = send_raw("[[], {}, {}]", id=None)
    letter = letter_of(nameless)
    requeue(letter)

    eventually(lambda: run_of(nameless).state == "SUCCESS")
    assert worker.process.poll() is None


def test_a_message_that_names_no_task_is_kept_and_refused(start_worker: WorkerStarter) -> None:
    start_worker()
    stranger = send_raw('{"a": 1}', id=None, task=None)
    letter = letter_of(stranger)

    with pytest.raises(NotRequeueable) as refused:
        requeue(letter)
    assert refused.value.code == "no_task"
    letter.refresh_from_db()
    assert (letter.status, bytes(letter.envelope or b"").endswith(b'{"a": 1}')) == ("open", True)
