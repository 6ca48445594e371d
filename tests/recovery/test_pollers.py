"""Whoever polls a failed task waits again once it is put back, in each result backend that lets us."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest
from celery import Celery, current_app, states

from django_taskops.exceptions import NotRequeueable
from django_taskops.models import DeadLetter
from django_taskops.recovery import pollers, requeue
from django_taskops.recovery.broker import Publisher
from tests import tasks
from tests.recovery.test_requeue import letter_of
from tests.workers import BrokerQueue, Worker, eventually, hang_up

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "sqlite"])


@pytest.fixture(params=["redis", "django-db", "cache+memory://", "file"])
def app(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Celery]:
    urls = {"redis": redis_url, "file": tmp_path.as_uri()}
    app = Celery("pollers", backend=urls.get(request.param, request.param), set_as_current=False)
    yield app
    hang_up(app)


def fail(backend: Any, task_id: str) -> None:
    backend.store_result(task_id, KeyError("lamp"), states.FAILURE, traceback="the traceback")


def test_failure_becomes_retry_and_keeps_what_else_is_known(app: Celery) -> None:
    backend: Any = app.backend
    failed, succeeded, unknown = (uuid4().hex for _ in range(3))
    fail(backend, failed)
    before = backend.get_task_meta(failed, cache=False)
    backend.store_result(succeeded, "done", states.SUCCESS)
    held = pollers.hold(app, [failed, succeeded, unknown])

    assert list(held) == [failed]
    meta = backend.get_task_meta(failed, cache=False)
    assert (meta["status"], meta["traceback"]) == (states.RETRY, before["traceback"])
    assert "lamp" in str(meta["result"])
    assert backend.get_task_meta(succeeded, cache=False)["status"] == states.SUCCESS

    pollers.give_back(app, held)
    assert backend.get_task_meta(failed, cache=False)["status"] == states.FAILURE


def test_a_backend_that_has_only_the_public_methods_will_do(app: Celery) -> None:
    backend: Any = app.backend
    fail(backend, "task")
    pollers._Store(backend).turn(["task"], states.FAILURE, states.RETRY)

    assert backend.get_task_meta("task", cache=False)["status"] == states.RETRY


def test_results_that_nobody_may_read_or_keeps_are_left_alone() -> None:
    for url in ("rpc://", "disabled://"):
        assert pollers.hold(Celery("nobody", backend=url, set_as_current=False), ["task"]) == {}


def test_a_backend_that_is_away_stops_nobody() -> None:
    away = Celery("away", backend="redis://127.0.0.1:1/0", set_as_current=False)

    assert pollers.hold(away, ["task"]) == {}


def test_what_was_turned_is_known_though_this_process_can_not_listen_afresh(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it could not fail again, where it is then not sent."""
    backend: Any = app.backend
    fail(backend, "task")
    monkeypatch.setattr(pollers, "_listen_afresh", _refuse)
    held = pollers.hold(app, ["task"])

    assert list(held) == ["task"]
    pollers.give_back(app, held)
    assert backend.get_task_meta("task", cache=False)["status"] == states.FAILURE


def test_a_get_that_is_asked_after_the_requeue_waits_for_the_answer(worker: Worker) -> None:
    key = uuid4().hex
    result = tasks.broken_until_healed.delay(key)
    letter = eventually(lambda: DeadLetter.objects.get(task_id=result.id))
    tasks.heal(key)
    requeue(letter, countdown=1)

    assert current_app.AsyncResult(result.id).state == states.RETRY
    assert current_app.AsyncResult(result.id).get(timeout=20) == "healed"
    assert result.get(timeout=20) == "healed"  # it had not read the failure, which was in its socket


def test_what_could_not_be_sent_reads_as_failed_again(
    database: str, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = letter_of(queue, tasks.fail.delay)
    fail(current_app.backend, letter.task_id)
    monkeypatch.setattr(Publisher, "publish", _refuse)
    with pytest.raises(NotRequeueable):
        requeue(letter)

    assert current_app.AsyncResult(letter.task_id).state == states.FAILURE


def _refuse(*_args: Any) -> NoReturn:
    raise ConnectionRefusedError("nobody listens")
