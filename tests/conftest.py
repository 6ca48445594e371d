"""Fixtures over real services: each test that asks for `database` runs on PostgreSQL and on SQLite, some on MariaDB."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from celery import current_app
from celery.exceptions import SoftTimeLimitExceeded
from django.db import connections
from pytest_django import DjangoDbBlocker, Settings

from django_taskops import journal
from example_site.embedded import ServiceUnavailable
from example_site.embedded_rabbitmq import rabbitmq_server
from tests.broken import BrokenJournal
from tests.services import missing, unavailable
from tests.workers import BrokerQueue, Worker, WorkerStarter, new_queue, publishing_to

pytest_plugins = ["tests.plugin"]


@pytest.fixture
def database(request: pytest.FixtureRequest, settings: Settings, db: None) -> str:
    """The alias that the package reads and writes in this test: each of those that tests/plugin.py gives.

    One of them only: `@pytest.mark.parametrize("database", ["default"], indirect=True)`.
    """
    alias: str = request.param
    variable = {"default": "DATABASE_URL", "mariadb": "MYSQL_URL"}.get(alias)
    if variable in missing:
        unavailable(missing[variable])
    settings.TASKOPS = {**settings.TASKOPS, "DATABASE": alias}
    return alias


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The Redis of this test run; nothing else uses its database 0."""
    if "REDIS_URL" in missing:
        unavailable(missing["REDIS_URL"])
    return os.environ["REDIS_URL"]


@pytest.fixture(scope="session")
def rabbitmq_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A RabbitMQ, started for the first test that asks for it."""
    with ExitStack() as started:
        try:
            url = started.enter_context(rabbitmq_server(tmp_path_factory.mktemp("rabbitmq")))
        except ServiceUnavailable as error:
            unavailable(str(error))
        yield url


@pytest.fixture
def broker(request: pytest.FixtureRequest, redis_url: str, settings: Settings) -> str:
    """The URL of the broker of this test's queue, its publishes and its workers. Redis, unless the test says otherwise:
    `@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)`. Results are in Redis in any case."""
    name = getattr(request, "param", "redis")
    url: str = request.getfixturevalue("rabbitmq_url") if name == "rabbitmq" else settings.CELERY_BROKER_URL
    return url


@pytest.fixture
def queue(broker: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerQueue]:
    """An empty queue of this test's own, where everything goes that it publishes without naming a queue."""
    own = new_queue(broker)
    with publishing_to(broker):
        yield _publish_to(own, settings, monkeypatch)
    own.remove()


@pytest.fixture
def declared_queues() -> None:
    """The app knows the queues that the project declares, and none of those to which other tests have published."""
    known: Any = current_app.amqp.queues
    for name in [name for name in known if name.startswith("test-")]:
        del known[name]


@pytest.fixture
def start_worker(
    database: str, queue: BrokerQueue, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerStarter]:
    """Starts real workers on this test's database and queue; they are ended with the test."""
    starter = WorkerStarter(folder=tmp_path_factory.mktemp("workers"))
    yield starter
    starter.end_all()


@pytest.fixture
def worker(
    database: str,
    broker: str,
    module_worker: Callable[[str, str], Worker],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Worker]:
    """A prefork worker of two, shared by the tests of a module that use the same database and broker.

    At the end of the test it drops what still waits and finishes what runs, so that the next test finds it idle;
    one that does not get idle is replaced. Look at rows by task id all the same.
    """
    shared = module_worker(database, broker)
    _publish_to(shared.queue, settings, monkeypatch)
    with publishing_to(broker):
        yield shared
    shared.settle()


@pytest.fixture(scope="module")
def module_worker(
    redis_url: str,
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str, str], Worker]]:
    starter = WorkerStarter(folder=tmp_path_factory.mktemp("workers"))
    workers: dict[tuple[str, str], Worker] = {}

    def worker_on(database: str, broker: str) -> Worker:
        known = workers.get((database, broker))
        if known is None or known.process.poll() is not None:
            queue = new_queue(broker)
            known = starter(database=database, queue=queue, taskops={"JOURNAL_PREFIX": queue.name})
            workers[database, broker] = known
        return known

    yield worker_on
    starter.end_all()
    for worker in starter.started:
        worker.queue.remove()
    _forget_last_words({database for database, _ in workers}, django_db_blocker)


def _forget_last_words(databases: Iterable[str], blocker: DjangoDbBlocker) -> None:
    """A worker and its drain may speak of themselves once more after the last test's tables were emptied."""
    from django_taskops.models import OutboxEntry, OutboxKind, Recorder, WorkerBeat

    with blocker.unblock():
        for alias in databases:
            Recorder.objects.using(alias).all().delete()
            WorkerBeat.objects.using(alias).all().delete()
            OutboxEntry.objects.using(alias).filter(kind=OutboxKind.LEASE).delete()
            connections[alias].close()


def _publish_to(queue: BrokerQueue, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> BrokerQueue:
    monkeypatch.setenv("TASKOPS_TEST_QUEUE", queue.name)
    settings.TASKOPS = {**settings.TASKOPS, "JOURNAL_PREFIX": queue.name}
    return queue


@pytest.fixture(autouse=True)
def fresh_journal() -> Iterator[None]:
    """What one test made of the journal, a pause after an outage say, is nothing to the next: nor is what still waits
    for a database that this test had not opened, which would be written as soon as another opens it."""
    from django_taskops.journal.direct import DirectJournal
    from django_taskops.projection import writer

    fresh = DirectJournal(writer, passing=(SoftTimeLimitExceeded,))
    usual = journal.use(fresh)
    yield
    journal.use(usual)
    fresh.postponed._forget()


@pytest.fixture
def broken_journal() -> Iterator[None]:
    """In this process, a journal whose every method raises."""
    working = journal.use(BrokenJournal())
    yield
    journal.use(working)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's executable."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        unavailable("expected chromium on PATH; install it to run the browser tests")
    return found


@pytest.fixture
def use_sources(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Called with sources, makes them what there is to drain; with none, the journal is the direct one."""
    from tests.sources import installer

    return installer(monkeypatch)
