"""A worker for each result backend, shared by all tests here. One at a time: its housekeeper looks into its own."""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import current_app
from django.conf import settings as project
from pytest_django import DjangoDbBlocker, Settings

from tests.conftest import _forget_last_words, _publish_to
from tests.workers import Worker, WorkerStarter, hang_up, new_queue

if TYPE_CHECKING:
    from tests.workflows.workflow import Workflow

DATABASE = "default"


@pytest.fixture(scope="package", params=["redis", "django-db"])
def results(request: pytest.FixtureRequest, redis_url: str) -> Iterator[str]:
    """The URL of the result backend."""
    before = current_app.conf.result_backend
    url = project.CELERY_RESULT_BACKEND if request.param == "redis" else request.param
    _store_in(url)
    yield url
    _store_in(before)


def _store_in(url: str) -> None:
    app: Any = current_app
    hang_up(app)
    app.conf["CELERY_RESULT_BACKEND"] = url
    app._backend_cache = None
    vars(app._local).pop("backend", None)


@pytest.fixture(scope="package")
def starter(
    results: str, django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerStarter]:
    starter = WorkerStarter(folder=tmp_path_factory.mktemp("workflows"))
    yield starter
    starter.stop_all()
    for worker in starter.started:
        worker.queue.remove()
    _forget_last_words({DATABASE}, django_db_blocker)


@pytest.fixture
def worker(
    database: str, results: str, starter: WorkerStarter, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Worker]:
    alive = [worker for worker in starter.started if worker.process.poll() is None]
    shared = alive[0] if alive else _start(starter, results)
    _publish_to(shared.queue, settings, monkeypatch)
    yield shared
    shared.settle()


def _start(starter: WorkerStarter, results: str) -> Worker:
    queue = new_queue()
    taskops = {"JOURNAL_PREFIX": queue.name}
    celery = {"result_backend": results, "accept_content": ["json", "pickle"]}
    root = {"C_FORCE_ROOT": "1"}  # as root no worker accepts pickle otherwise
    return starter(database=DATABASE, queue=queue, celery=celery, taskops=taskops, concurrency=3, extra_env=root)


@pytest.fixture
def flow(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> "Workflow":
    from django_taskops.recovery import joins  # models, which can't be imported before the settings are there
    from tests.workflows.workflow import Workflow

    monkeypatch.setattr(joins, "GRACE", timedelta(seconds=0.5))  # in each test a member has ended just now
    return Workflow()
