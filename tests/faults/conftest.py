"""A journal in a Redis of the test's own, in this process and in those that it starts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from pytest_django import Settings

from django_taskops import journal
from tests.faults import processes
from tests.faults.own_database import OwnDatabase, default_database
from tests.faults.processes import Process
from tests.servers import PostgresServer, RedisServer, own_postgres, own_redis
from tests.workers import BrokerQueue


@pytest.fixture
def journal_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Another Redis than the broker's."""
    with own_redis(tmp_path / "journal") as server:
        yield server


@pytest.fixture
def journal_there(journal_redis: RedisServer, settings: Settings, queue: BrokerQueue, tmp_path: Path) -> Iterator[None]:
    """In this test, the settings name the journal in `journal_redis`; the spool has a folder of its own."""
    settings.TASKOPS = {**settings.TASKOPS, "JOURNAL": journal_redis.url, "SPOOL_DIR": str(tmp_path / "spool")}
    usual = journal.use(None)
    yield
    journal.flush()
    journal.use(usual)


@pytest.fixture
def start_drain(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts `taskops_drain` with the settings of the moment; it is killed at the end of the test."""
    with ExitStack() as stack:

        def start(*options: str, **given: object) -> Process:
            drain: AbstractContextManager[Process] = processes.drain(
                tmp_path, *options, given=processes.environment(**given)
            )
            return stack.enter_context(drain)

        yield start


@pytest.fixture(scope="session")
def own_postgres_server() -> Iterator[PostgresServer]:
    with own_postgres() as server:
        yield server


@pytest.fixture
def own_database(
    own_postgres_server: PostgresServer, database: str, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OwnDatabase]:
    """An empty one, without any table, that is the default in this test and in the processes that it starts."""
    url = own_postgres_server.create(f"test_{uuid4().hex}")
    monkeypatch.setenv("DATABASE_URL", url)
    with default_database(url):
        yield OwnDatabase(own_postgres_server, url)
