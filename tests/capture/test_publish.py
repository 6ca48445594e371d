"""The publisher's side: transactions, event loops, odd arguments, and what leaves no trace."""

import asyncio
import gc
import pickle
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from celery import current_app, signals
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory
from django.test.utils import CaptureQueriesContext
from kombu.exceptions import EncodeError
from pytest_django import Settings

from django_taskops.capture import headers as own
from django_taskops.capture import span
from django_taskops.capture.envelope import Envelope
from django_taskops.models import RunEnvelope, TaskRun
from django_taskops.states import TaskState
from tests import tasks
from tests.workers import BrokerQueue, Worker, eventually

for_real = pytest.mark.django_db(transaction=True)


@for_real
def test_a_publish_is_pending_with_everything_needed_to_send_it_again(database: str, queue: BrokerQueue) -> None:
    result = tasks.add.apply_async((1, 2), priority=3, headers={own.OWNER: "li", "traceparent": "00-abc-def-01"})

    run = TaskRun.objects.get()
    assert (run.task_id, run.state, run.queue, run.priority) == (result.id, TaskState.PENDING, queue.name, 3)
    assert (run.args, run.kwargs, run.owner, run.trace_id) == ([1, 2], {}, "li", "abc")
    message, envelope = queue.messages()[0], Envelope.from_bytes(RunEnvelope.objects.get().envelope or b"")
    assert envelope.headers == message["headers"]
    assert envelope.body == b64decode(message["body"])
    assert own.DESCRIBE not in message["headers"]


@for_real
def test_it_is_enqueued_before_any_worker_can_have_it(database: str, queue: BrokerQueue) -> None:
    """A worker on an idle machine is done before the publisher hears from the broker."""
    sent: list[datetime] = []

    def note(**_signal: object) -> None:
        sent.append(datetime.now(UTC))

    with receiving(signals.before_task_publish, note):
        tasks.add.delay(1, 2)

    assert TaskRun.objects.get().enqueued_at <= sent[0]


@contextmanager
def receiving(signal: Any, receiver: Any) -> Iterator[None]:
    signal.connect(receiver)
    yield
    signal.disconnect(receiver)


@for_real
def test_nothing_is_written_into_the_callers_transaction(database: str, queue: BrokerQueue) -> None:
    with transaction.atomic(using=database):
        with CaptureQueriesContext(connections[database]) as queries:
            tasks.add.delay(1, 2)
        assert len(queries) == 0
        assert len(queue) == 1
    assert TaskRun.objects.count() == 1


def test_a_publish_inside_a_transaction_that_commits_meets_a_worker_quicker_than_the_commit(
    worker: Worker, database: str
) -> None:
    with transaction.atomic(using=database):
        result = tasks.add.delay(1, 2)
        answer = result.get(timeout=20)  # no lock of ours holds the worker up

    assert answer == 3
    run = eventually(lambda: TaskRun.objects.get(task_id=result.id, state=TaskState.SUCCESS))
    assert run.enqueued_at is not None


def test_a_publish_that_was_rolled_back_is_recorded_by_the_worker_and_can_be_sent_again(
    worker: Worker, database: str
) -> None:
    with transaction.atomic(using=database):
        result = tasks.fail.delay("though it was rolled back")
        transaction.set_rollback(True, using=database)

    run = eventually(lambda: TaskRun.objects.get(task_id=result.id, state=TaskState.FAILURE))
    assert run.args == ["though it was rolled back"]
    assert run.queue == worker.queue.name
    assert run.dead_letters.get().envelope


@for_real
def test_a_broken_transaction_of_the_caller_stays_as_it_is(database: str, queue: BrokerQueue) -> None:
    with transaction.atomic(using=database):
        transaction.set_rollback(True, using=database)
        tasks.add.delay(1, 2)

    assert len(queue) == 1


@for_real
def test_our_own_failing_query_never_poisons_the_callers_connection(
    database: str, queue: BrokerQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Its table is away while the caller commits; the caller goes on, and the row comes when the table does."""
    with without_the_table(database):
        with transaction.atomic(using=database):
            result = tasks.add.delay(1, 2)
        with connections[database].cursor() as cursor:
            cursor.execute("SELECT 1")

    assert queue.task_ids() == [result.id]
    assert "is postponed" in caplog.text
    assert eventually(lambda: TaskRun.objects.get(task_id=result.id)).state == TaskState.PENDING


@contextmanager
def without_the_table(database: str) -> Iterator[None]:
    with connections[database].cursor() as cursor:
        cursor.execute("ALTER TABLE taskops_taskrun RENAME TO taskops_away")
        yield
        cursor.execute("ALTER TABLE taskops_away RENAME TO taskops_taskrun")


@for_real
def test_a_publish_from_an_async_view_is_recorded(database: str, queue: BrokerQueue) -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(tasks.add.delay(1, 2).id)

    response = asyncio.run(_call(view))

    assert eventually(lambda: TaskRun.objects.get(task_id=response.content.decode())).args == [1, 2]


async def _call(view: Any) -> HttpResponse:
    response: HttpResponse = await view(AsyncRequestFactory().get("/"))
    return response


@for_real
def test_a_publish_that_fails_leaves_no_trace_of_ours(database: str, queue: BrokerQueue) -> None:
    with pytest.raises(EncodeError):
        tasks.echo.delay(object())

    assert not TaskRun.objects.exists()


@for_real
def test_a_task_that_the_project_does_not_track_is_left_alone(
    database: str, queue: BrokerQueue, settings: Settings
) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "IGNORE": ["tests.*"]}
    tasks.add.delay(1, 2)

    assert not TaskRun.objects.exists()
    assert not [name for name in queue.messages()[0]["headers"] if name.startswith("taskops")]


ODD_IDS = ["order/7", "with space", "nul\x00", "'; DROP TABLE x; --", "订单", "x" * 255, "<script>alert(1)</script>"]


@for_real
@pytest.mark.parametrize("task_id", ODD_IDS)
def test_ids_of_any_text_are_stored(database: str, queue: BrokerQueue, task_id: str) -> None:
    tasks.add.apply_async((1, 2), task_id=task_id)

    assert TaskRun.objects.get().task_id == task_id.replace("\x00", "\\x00")


ODD_ARGUMENTS = [
    ("\x00" * 1000,),
    ("\ud800 alone",),
    ("<script>alert(1)</script>",),
    (float("inf"),),
    (10**400,),
    ({"": {"\x00": "\x00"}},),
    ("x" * 10 * 1024 * 1024,),
]


@for_real
@pytest.mark.parametrize("args", ODD_ARGUMENTS, ids=range(len(ODD_ARGUMENTS)))
def test_arguments_of_any_kind_are_stored(database: str, queue: BrokerQueue, args: tuple[Any, ...]) -> None:
    tasks.echo.apply_async(args)

    assert len(queue) == 1
    assert TaskRun.objects.get().args


@for_real
def test_arguments_that_cannot_be_displayed_do_not_cost_the_envelope(
    database: str, queue: BrokerQueue, settings: Settings
) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "REDACT": [7]}  # no text
    tasks.echo.delay("x")

    assert TaskRun.objects.get().args is None
    assert RunEnvelope.objects.get().envelope


@for_real
def test_a_payload_beyond_the_limit_says_why_it_cannot_be_run_again(database: str, queue: BrokerQueue) -> None:
    tasks.echo.apply_async(("x" * 300_000,))

    kept = RunEnvelope.objects.get()
    assert kept.envelope is None
    assert kept.error.endswith("exceeds the limit of 262144")
    assert TaskRun.objects.get().args[0].endswith("more characters)")


@for_real
def test_a_name_of_1000_characters_is_cut_visibly_and_its_envelope_is_not(database: str, queue: BrokerQueue) -> None:
    name = "shop.tasks." + "x" * 989
    current_app.send_task(name)

    run = TaskRun.objects.get()
    assert (len(run.task_name), run.task_name[-1]) == (255, "…")
    assert Envelope.from_bytes(RunEnvelope.objects.get().envelope or b"").headers["task"] == name


@for_real
def test_positional_arguments_of_a_task_that_is_not_loaded_here_are_left_to_the_worker(
    database: str, queue: BrokerQueue
) -> None:
    current_app.send_task("elsewhere.charge", args=("4111 1111",))

    assert TaskRun.objects.get().args is None
    assert queue.messages()[0]["headers"][own.DESCRIBE] is True


def test_pickled_arguments_sent_with_another_serializer_are_recorded_from_the_wire(
    start_worker: Any, database: str
) -> None:
    start_worker(celery={"accept_content": ["json", "pickle"]}, extra_env={"C_FORCE_ROOT": "1"})
    result = tasks.fail.apply_async((frozenset({"A1"}),), serializer="pickle", task_id=str(uuid4()))

    run = eventually(lambda: TaskRun.objects.get(task_id=result.id, state=TaskState.FAILURE))
    envelope = Envelope.from_bytes(run.dead_letters.get().envelope or b"")
    assert run.args == [["A1"]]
    assert envelope.content_type == "application/x-python-serialize"
    assert pickle.loads(envelope.body)[0] == (frozenset({"A1"}),)


class TestEagerMode:
    """The project's own test suite."""

    @pytest.fixture(autouse=True)
    def eager(self) -> Any:
        current_app.conf.task_always_eager = True
        yield
        current_app.conf.task_always_eager = False

    def test_nothing_is_recorded_and_no_query_is_made(self, database: str) -> None:
        with CaptureQueriesContext(connections[database]) as queries:
            assert tasks.add.delay(1, 2).get() == 3
            assert tasks.tracked_add.delay(1, 2).get() == 3
            with pytest.raises(tasks.Declined):
                tasks.fail.delay().get()

        assert len(queries) == 0
        assert not TaskRun.objects.exists()

    def test_a_test_without_any_database_runs_tasks(self) -> None:
        """As in SimpleTestCase, where a query raises."""
        assert tasks.tracked_flaky.delay(uuid4().hex, 1).get() == 2

    @pytest.mark.usefixtures("database")
    def test_nothing_is_remembered_of_what_has_ended(self, settings: Settings) -> None:
        settings.TASKOPS = {**settings.TASKOPS, "RECORD_EAGER": True}
        for _ in range(3):
            tasks.fail.delay()
            tasks.flaky.delay(uuid4().hex, 1)
        gc.collect()

        assert len(span.spans) == 0

    @for_real
    @pytest.mark.usefixtures("database")
    def test_what_is_recorded_on_request_looks_like_any_other_run(self, settings: Settings) -> None:
        settings.TASKOPS = {**settings.TASKOPS, "RECORD_EAGER": True}
        good, healed, bad = tasks.add.delay(1, 2), tasks.flaky.delay(uuid4().hex, 1), tasks.fail.delay()

        runs = {run.task_id: run for run in TaskRun.objects.all()}
        assert [runs[result.id].state for result in (good, healed, bad)] == ["SUCCESS", "SUCCESS", "FAILURE"]
        assert (runs[good.id].args, runs[good.id].result, runs[healed.id].starts()) == ([1, 2], 3, 2)
        assert runs[bad.id].dead_letters.get().envelope_error == "run eagerly: there was no message"
