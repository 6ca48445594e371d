"""Starts Redis and PostgreSQL once for the whole run, before Django's settings, which point at them, are read.

Loaded by tests/conftest.py, so nothing that conftest.py imports may import models at its top.
"""

import importlib
import os
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

import django
import pytest
from django.core.management import CommandError
from django.db import OperationalError
from django.test import TransactionTestCase

from tests.services import ALIASES, missing, start_services
from tests.workers import running

FLUSHES = 5


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("help") or config.getoption("version"):
        return
    services = ExitStack()
    config.add_cleanup(services.close)
    start_services(services)
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    importlib.import_module("tests.celery_app")  # makes it the current app of this process
    _flush_again_after_a_deadlock()


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        _open_databases(item)


def _open_databases(item: pytest.Item) -> None:
    """Opens every database to a test that uses the `database` fixture, with commits where a worker must see them."""
    fixtures: tuple[str, ...] = getattr(item, "fixturenames", ())
    if "database" not in fixtures:
        return
    given = item.get_closest_marker("django_db")
    options: dict[str, Any] = {"databases": ALIASES, **(given.kwargs if given else {})}
    if {"worker", "start_worker"} & set(fixtures):
        options["transaction"] = True
    item.add_marker(pytest.mark.django_db(**options), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [(f"log of {worker.name}", worker.log_tail()) for worker in running]
    return report
