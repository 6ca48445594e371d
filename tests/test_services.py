"""The ground the other tests stand on: the embedded servers, both databases, a real worker."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from django.conf import settings
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from example_site import embedded
from tests import tasks
from tests.services import ALIASES, MARIADB
from tests.workers import BrokerQueue, Worker, WorkerStarter, eventually

ROOT = Path(__file__).parents[1]


@pytest.fixture
def own_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)


def test_a_given_redis_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://redis.example:6379/4")

    with embedded.redis_server(tmp_path) as url:
        assert url == "redis://redis.example:6379/4"


def test_a_given_postgresql_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://shop@db.example/shop")

    with embedded.postgres_server(tmp_path) as url:
        assert url == "postgres://shop@db.example/shop"


def test_redis_answers_until_the_block_ends(redis_url: str, own_servers: None, tmp_path: Path) -> None:
    with embedded.redis_server(tmp_path) as url, redis.Redis.from_url(url) as client:
        assert client.ping()
        pid = client.info()["process_id"]

    assert not psutil.pid_exists(pid)


def test_redis_asks_for_the_password(redis_url: str, own_servers: None, tmp_path: Path) -> None:
    with embedded.redis_server(tmp_path) as url:
        without = url.replace(url.partition("//")[2].partition("@")[0] + "@", "")

        with redis.Redis.from_url(without) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_a_server_that_ends_while_starting_is_reported_with_its_log(
    own_servers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho no memory left\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    with pytest.raises(embedded.ServiceUnavailable, match=r"exit with code 3[\s\S]*no memory left"):
        embedded.redis_server(tmp_path).__enter__()


@pytest.mark.parametrize(
    ("server", "program"), [(embedded.redis_server, "redis-server"), (embedded.postgres_server, "postgres")]
)
def test_a_server_does_not_outlive_a_killed_parent(
    redis_url: str,
    own_servers: None,
    tmp_path: Path,
    server: Callable[[Path], AbstractContextManager[str]],
    program: str,
) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a child of its parent's death")
    code = (
        "import pathlib, example_site.embedded as embedded\n"
        f"with embedded.{server.__name__}(pathlib.Path({str(tmp_path)!r})) as url: print(url, flush=True); input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert parent.stdout is not None
    url = parent.stdout.readline().decode().strip()
    children = [child for child in psutil.Process(parent.pid).children() if child.name() == program]
    assert len(children) == 1

    parent.send_signal(signal.SIGKILL)
    parent.communicate()

    eventually(lambda: not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE)
    if embedded.is_postgres(url):  # its folder is the one thing that nobody was left to remove
        shutil.rmtree(embedded.postgres_settings(url)["HOST"])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://shop:p%40ss@db.example:6432/orders", ("orders", "shop", "p@ss", "db.example", "6432")),
        ("postgresql://postgres@/postgres?host=/run/here", ("postgres", "postgres", "", "/run/here", "")),
    ],
)
def test_postgres_settings_reads_tcp_and_socket_addresses(url: str, expected: tuple[str, ...]) -> None:
    read = embedded.postgres_settings(url)

    assert tuple(read[key] for key in ("NAME", "USER", "PASSWORD", "HOST", "PORT")) == expected


def test_postgres_settings_passes_on_what_django_has_no_name_for() -> None:
    assert embedded.postgres_settings("postgres://db/shop?sslmode=require")["OPTIONS"] == {"sslmode": "require"}


def test_another_database_of_the_same_server_keeps_the_rest_of_the_address() -> None:
    assert embedded.redis_database("redis://:secret@localhost:6380/0", 7) == "redis://:secret@localhost:6380/7"
    assert (
        embedded.postgres_database("postgresql://postgres@/postgres?host=/run/here", "test_postgres")
        == "postgresql://postgres@/test_postgres?host=/run/here"
    )


def test_both_databases_are_migrated(database: str) -> None:
    executor = MigrationExecutor(connections[database])

    assert executor.migration_plan(executor.loader.graph.leaf_nodes()) == []


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_default_is_a_postgresql_that_the_package_supports(database: str) -> None:
    assert connections["default"].vendor == "postgresql"
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        assert connection.info.server_version >= 14_00_00


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sqlite_is_a_file_in_write_ahead_mode(database: str) -> None:
    with connections["sqlite"].cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")

        assert cursor.fetchone() == ("wal",)
    assert Path(connections["sqlite"].settings_dict["NAME"]).is_file()


def test_the_package_uses_the_database_of_the_test(database: str) -> None:
    assert settings.TASKOPS["DATABASE"] == database
    assert database in {*ALIASES, MARIADB}


def test_what_a_test_publishes_waits_in_its_own_queue(queue: BrokerQueue) -> None:
    assert queue.messages() == []

    sent = [tasks.add.delay(1, 2).id, tasks.add.delay(3, 4).id]

    assert queue.task_ids() == sent


def test_a_worker_runs_what_the_test_publishes(worker: Worker) -> None:
    assert tasks.add.delay(2, 3).get(timeout=15) == 5


def test_a_worker_of_the_test_opens_the_test_databases(start_worker: WorkerStarter, database: str) -> None:
    start_worker(pool="solo")

    assert tasks.opened_databases.delay().get(timeout=15) == {
        alias: str(connections[alias].settings_dict["NAME"]) for alias in (*ALIASES, MARIADB)
    }


def test_a_worker_can_have_settings_of_its_own(start_worker: WorkerStarter, database: str) -> None:
    start_worker(pool="threads", taskops={"RECORD_RECEIVED": True})

    assert tasks.taskops_settings.delay().get(timeout=15) == {**settings.TASKOPS, "RECORD_RECEIVED": True}
    assert settings.TASKOPS["DATABASE"] == database


def test_a_killed_worker_is_gone_with_its_pool(start_worker: WorkerStarter) -> None:
    worker = start_worker()
    children = worker.children()
    assert len(children) >= 2

    worker.kill()

    eventually(lambda: all(not c.is_running() or c.status() == psutil.STATUS_ZOMBIE for c in children))


def test_eventually_says_what_it_last_saw() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"expected the pig to fly within 0.05 s, last saw: 0"):
        eventually(lambda: 0, timeout=0.05, message="the pig to fly")
