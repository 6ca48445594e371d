"""Starts Redis and PostgreSQL once for the whole run, before Django's settings, which point at them, are read.

Loaded by tests/conftest.py, so nothing that conftest.py imports may import models at its top.
"""

import importlib
import os
from collections import defaultdict
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path  # noqa: TC003
from typing import Any

import django
import pytest
from django.core.management import CommandError
from django.db import OperationalError
from django.test import TransactionTestCase

from tests.services import ALIASES, MARIADB, missing, start_services
from tests.turns import turn
from tests.workers import running

FLUSHES = 5


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("help") or config.getoption("version"):
        return
    services = ExitStack()
    _keep_bytecode(config)
    config.add_cleanup(services.close)
    for_others = _hands_tests_to_others(config)
    start_services(services, for_others=for_others)
    if for_others:
        return  # pytest-django would read the settings in the others before they have a Redis
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    importlib.import_module("tests.celery_app")  # makes it the current app of this process
    _flush_again_after_a_deadlock()


def _hands_tests_to_others(config: pytest.Config) -> bool:
    """True of the controller of `-n`."""
    return bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")


def _keep_bytecode(config: pytest.Config) -> None:
    """The tests start hundreds of Python processes. Each would compile all of the package, where Python was told not to
    write bytecode beside the sources."""
    if "PYTHONDONTWRITEBYTECODE" in os.environ and config.pluginmanager.hasplugin("cacheprovider"):
        os.environ["PYTHONPYCACHEPREFIX"] = str(config.rootpath / config.getini("cache_dir") / "bytecode")
        del os.environ["PYTHONDONTWRITEBYTECODE"]


def _flush_again_after_a_deadlock() -> None:
    """Emptying the tables may meet a worker that still writes, and PostgreSQL then ends one of the two."""
    flush = TransactionTestCase._fixture_teardown  # type: ignore[attr-defined]

    def patient_flush(case: TransactionTestCase) -> None:
        for _ in range(FLUSHES - 1):
            try:
                return flush(case)  # type: ignore[no-any-return]
            except CommandError as error:
                if not isinstance(error.__cause__, OperationalError):
                    raise
        return flush(case)  # type: ignore[no-any-return]

    TransactionTestCase._fixture_teardown = patient_flush  # type: ignore[attr-defined]


def pytest_report_header() -> list[str]:
    return [f"services: no {variable}: {reason.splitlines()[0]}" for variable, reason in missing.items()]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around all else, so that waiting counts for no time limit."""
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that uses the `database` fixture and names none runs on PostgreSQL and SQLite; on MariaDB too where it is
    marked so. TASKOPS_TEST_DATABASES names others, parted by commas, for all of them."""
    if "database" not in metafunc.fixturenames or _names_databases(metafunc):
        return
    marked = metafunc.definition.get_closest_marker("mariadb")
    given = os.environ.get("TASKOPS_TEST_DATABASES")
    aliases = given.split(",") if given else [*ALIASES, MARIADB] if marked else ALIASES
    metafunc.parametrize("database", aliases, indirect=True)


def _names_databases(metafunc: pytest.Metafunc) -> bool:
    given = (mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    return any("database" in (names.split(",") if isinstance(names, str) else names) for names in given)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """Around pytest-django, which orders the tests by how they use the databases."""
    for item in items:
        _open_databases(item)
    yield
    _put_longest_first(items)


def _open_databases(item: pytest.Item) -> None:
    """Opens the databases to a test that uses the `database` fixture, with commits where a worker must see them.

    MariaDB only where it is the one: to empty it takes its time."""
    fixtures: tuple[str, ...] = getattr(item, "fixturenames", ())
    if "database" not in fixtures:
        return
    given = item.get_closest_marker("django_db")
    own = item.callspec.params["database"] if isinstance(item, pytest.Function) else ALIASES[0]
    options: dict[str, Any] = dict(given.kwargs) if given else {}
    options["databases"] = list({*ALIASES, own, *options.get("databases", ())})
    if {"worker", "start_worker"} & set(fixtures):
        options["transaction"] = True
    item.add_marker(pytest.mark.django_db(**options), append=False)


WEIGHTS = {"start_worker": 10, "worker": 2, "chromium": 2, "db": 0.1}
"""Roughly, the seconds that a test with such a fixture takes."""


def _put_longest_first(items: list[pytest.Item]) -> None:
    """All tests of a file go to one process, and one that takes minutes must not be the last to begin."""
    seconds: dict[Path, float] = defaultdict(float)
    for item in items:
        fixtures: tuple[str, ...] = getattr(item, "fixturenames", ())
        seconds[item.path] += max((WEIGHTS.get(name, 0) for name in fixtures), default=0)
    items.sort(key=lambda item: (-seconds[item.path], item.path))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [(f"log of {worker.name}", worker.log_tail()) for worker in running]
    return report
