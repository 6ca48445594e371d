"""What the tests need from outside, once for the whole run. The addresses travel in the environment, to workers too."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest
import redis

from example_site.embedded import ServiceUnavailable, postgres_server, redis_server
from example_site.embedded_mariadb import mariadb_server
from tests.servers import give_own_machine

ALIASES = ["default", "sqlite"]
MARIADB = "mariadb"
DRIVERS = ("MySQLdb", "pymysql")
IN_CI = bool(os.environ.get("CI"))
Server = Callable[[Path], AbstractContextManager[str]]
missing: dict[str, str] = {}


def start_services(until: ExitStack, *, for_others: bool) -> None:
    """Sets REDIS_URL, DATABASE_URL, MYSQL_URL, a file for SQLite and folders for the spool and the turns; `until` stops
    and removes what was started here.

    `for_others` in a process that only hands the tests to others, which find these addresses in their environment. They
    share the databases, where each has its own tables, but no Redis: tests look at all that a broker holds.
    """
    folder = Path(tempfile.mkdtemp(prefix="taskops-tests-"))
    until.callback(shutil.rmtree, folder, ignore_errors=True)
    for variable, server in SERVERS.items():
        if not (for_others and variable == "REDIS_URL"):
            _start(until, variable, server, folder)
    os.environ["TASKOPS_TEST_SQLITE"] = str(folder / "tests.sqlite3")
    os.environ["TASKOPS_TEST_SPOOL"] = str(folder / "spool")
    if for_others or "PYTEST_XDIST_WORKER" not in os.environ:
        os.environ["TASKOPS_TEST_TURNS"] = str(folder)


def _start(until: ExitStack, variable: str, server: Server, folder: Path) -> None:
    try:
        os.environ[variable] = until.enter_context(server(folder))
    except ServiceUnavailable as error:
        if IN_CI:
            raise pytest.UsageError(str(error)) from error
        missing[variable] = str(error)


@contextmanager
def _mariadb_with_driver(folder: Path) -> Iterator[str]:
    if not any(map(find_spec, DRIVERS)):
        raise ServiceUnavailable(f"Expected a driver for MariaDB, one of {DRIVERS}; install PyMySQL.")
    with mariadb_server(folder) as url:
        yield url


@contextmanager
def _redis_with_its_own_machine(folder: Path) -> Iterator[str]:
    is_ours = "REDIS_URL" not in os.environ
    with redis_server(folder) as url:
        if is_ours:
            with redis.Redis.from_url(url) as client:
                give_own_machine(client.info("server")["process_id"])
        yield url


SERVERS: dict[str, Server] = {
    "REDIS_URL": _redis_with_its_own_machine,
    "DATABASE_URL": postgres_server,
    "MYSQL_URL": _mariadb_with_driver,
}


def unavailable(reason: str) -> NoReturn:
    """A service that a test needs is not here: skips on a laptop, fails in CI."""
    if IN_CI:
        pytest.fail(f"{reason} (CI is set, so this is a failure and not a skip)", pytrace=False)
    pytest.skip(reason)
