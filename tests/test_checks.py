"""A misconfiguration has a stable id, a cure in its hint, an entry in the docs, and a test here."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from cryptography.fernet import Fernet
from django.core.checks import CheckMessage, run_checks
from django.db import connections
from pytest_django import Settings

from django_taskops import checks, mysql_checks
from django_taskops.conf import MIB, SETTINGS

ROOT = Path(__file__).parents[1]


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id) for message in messages if str(message.id).startswith("taskops.")]


@pytest.mark.django_db(databases=["default", "sqlite"])
def test_this_project_has_nothing_to_complain_about(use_sources: Callable[..., None]) -> None:
    use_sources()  # the Redis of the tests keeps nothing on disk, and the checks say so

    assert ids(run_checks(include_deployment_checks=True)) == []


def test_an_unknown_key_is_an_error_that_lists_the_known_ones(settings: Settings) -> None:
    settings.TASKOPS = {"JOURNALS": "direct"}
    (message,) = checks.check_settings()

    assert message.id == "taskops.E001"
    assert "JOURNAL," in str(message.hint)


def test_a_setting_that_is_no_dict_is_an_error(settings: Settings) -> None:
    settings.TASKOPS = ["JOURNAL"]

    assert ids(checks.check_settings()) == ["taskops.E001"]


@pytest.mark.parametrize("taskops", [["JOURNAL"], "auto", 5, {"DATABASE": []}, {"DATABASE": {}}])
def test_no_check_stumbles_over_a_wrong_setting(settings: Settings, taskops: Any) -> None:
    settings.TASKOPS = taskops
    messages = [message for check, _tags in checks._CHECKS for message in check(databases=["default"])]

    assert set(ids(messages)) & {"taskops.E001", "taskops.E002"}


async def awaited(request: Any, run: Any) -> bool:
    return True


@pytest.mark.parametrize("path", ["nowhere.at_all", "nodots", "django_taskops.__version__", f"{__name__}.awaited"])
def test_a_status_permission_that_nobody_can_call_is_an_error(settings: Settings, path: str) -> None:
    settings.TASKOPS = {"STATUS_PERMISSION": path}

    assert ids(checks.check_status_permission()) == ["taskops.E004"]


WRONG = {
    "JOURNAL": "kafka",
    "DATABASE": "nowhere",
    "TRACK": "*",
    "IGNORE": [1],
    "DEAD_LETTER": True,
    "RECORD_RECEIVED": "yes",
    "RECORD_EAGER": 1,
    "PAYLOAD_MAX_BYTES": 0,
    "RESULT_MAX_BYTES": True,
    "REDACT": "password",
    "STATUS_PERMISSION": 5,
    "VERSION": 1.2,
    "JOURNAL_PREFIX": "",
    "JOURNAL_MAX_BYTES": -1,
    "SPOOL_DIR": 7,
    "SPOOL_MAX_BYTES": "64 MiB",
    "KEEP_SUCCESS": 2,
    "OWN_CODE": "shop",
    "RETENTION": {"success": 0},
    "UNDELIVERED_AFTER": None,
    "WORKER_TIMEOUT": 1.5,
}


def test_every_setting_is_tried_with_a_wrong_value() -> None:
    assert {*WRONG, "PAYLOAD_KEYS"} == set(SETTINGS)


@pytest.mark.parametrize("key", WRONG)
def test_an_ill_typed_value_is_an_error_that_says_what_was_expected(settings: Settings, key: str) -> None:
    settings.TASKOPS = {key: WRONG[key]}
    message = checks.check_settings()[0]

    assert message.id == "taskops.E002"
    assert message.msg.startswith(f"TASKOPS[{key!r}]: expected ")
    assert message.msg.endswith(f"got {WRONG[key]!r}.")


@pytest.mark.parametrize("key", list(SETTINGS))
def test_every_default_is_a_value_that_it_may_have(settings: Settings, key: str) -> None:
    settings.TASKOPS = {key: SETTINGS[key].default}

    assert "taskops.E002" not in ids(checks.check_settings())


def test_a_key_is_not_repeated_where_people_read_along(settings: Settings) -> None:
    settings.TASKOPS = {"PAYLOAD_KEYS": "the key itself"}
    (message,) = checks.check_settings()

    assert message.msg == "TASKOPS['PAYLOAD_KEYS']: expected a list of Fernet keys, got str."
    assert checks.check_payload_keys() == []


def test_keys_that_open_nothing_are_an_error(settings: Settings) -> None:
    settings.TASKOPS = {"PAYLOAD_KEYS": ["no key"]}
    assert ids(checks.check_payload_keys()) == ["taskops.E009"]
    assert "no key" not in checks.check_payload_keys()[0].msg

    settings.TASKOPS = {"PAYLOAD_KEYS": [Fernet.generate_key().decode()]}
    assert checks.check_payload_keys() == []


def test_eager_mode_outside_tests_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(current_app.conf, "task_always_eager", True)
    assert checks.check_eager() == []

    monkeypatch.setattr(checks, "_under_test", lambda: False)
    assert ids(checks.check_eager()) == ["taskops.W001"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["taskops.W002"]),
        ({"transaction_mode": "DEFERRED"}, ["taskops.W002"]),
        ({"transaction_mode": "IMMEDIATE"}, []),
    ],
)
def test_sqlite_without_immediate_transactions_is_a_warning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], expected: list[str]
) -> None:
    monkeypatch.setitem(settings.DATABASES, "other", {"ENGINE": checks.SQLITE, "OPTIONS": options})
    settings.TASKOPS = {"DATABASE": "other"}

    assert ids(checks.check_sqlite()) == expected


def test_a_database_that_is_not_there_is_left_to_the_check_of_settings(settings: Settings) -> None:
    settings.TASKOPS = {"DATABASE": "nowhere"}

    assert checks.check_sqlite() == []
    assert ids(checks.check_settings()) == ["taskops.E002"]


@pytest.mark.django_db(transaction=True)
def test_missing_tables_are_an_error_where_databases_are_checked(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checks.check_migrated(databases=[database]) == []
    with connections[database].cursor() as cursor:
        cursor.execute("ALTER TABLE taskops_taskrun RENAME TO taskops_away")
    try:
        assert ids(checks.check_migrated(databases=[database])) == ["taskops.E003"]
        assert checks.check_migrated(databases=[]) == []
        monkeypatch.setattr(sys, "argv", ["manage.py", "migrate"])
        assert checks.check_migrated(databases=[database]) == []
    finally:
        with connections[database].cursor() as cursor:
            cursor.execute("ALTER TABLE taskops_away RENAME TO taskops_taskrun")


@pytest.mark.django_db(transaction=True)
def test_a_database_one_migration_behind_is_an_error_of_its_own(database: str) -> None:
    with connections[database].cursor() as cursor:
        cursor.execute("ALTER TABLE taskops_quarantinedentry RENAME TO taskops_away")
    try:
        assert ids(checks.check_migrated(databases=[database])) == ["taskops.E005"]
    finally:
        with connections[database].cursor() as cursor:
            cursor.execute("ALTER TABLE taskops_away RENAME TO taskops_quarantinedentry")


def documented(pattern: str, page: str) -> set[str]:
    return set(re.findall(pattern, (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE))


def test_the_docs_name_each_check_and_no_other() -> None:
    modules = (ROOT / "django_taskops" / name for name in ("checks.py", "journal_checks.py", "mysql_checks.py"))
    source = "".join(module.read_text(encoding="utf-8") for module in modules)

    assert documented(r"^## `(taskops\.[EW]\d+)`", "checks.md") == set(re.findall(r"taskops\.[EW]\d{3}", source))


def test_the_docs_name_each_setting_and_no_other() -> None:
    settings: Any = SETTINGS

    assert documented(r"^\| `([A-Z_]+)`", "settings.md") == set(settings)


def test_a_mistyped_address_keeps_its_password_to_itself(settings: Settings) -> None:
    settings.TASKOPS = {"JOURNAL": "REDIS://:hunter2@cache/0"}

    (error,) = checks.check_settings()

    assert error.id == "taskops.E002"
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"isolation_level": "READ COMMITTED"}, []),
        ({"isolation_level": "repeatable read"}, ["taskops.W008"]),
        ({"isolation_level": None}, ["taskops.W008"]),
    ],
)
def test_a_mysql_that_does_not_read_what_is_committed_is_a_warning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, options: dict[str, str | None], expected: list[str]
) -> None:
    mysql = {"ENGINE": "django.db.backends.mysql", "OPTIONS": options}
    monkeypatch.setitem(settings.DATABASES, "other", mysql)
    settings.TASKOPS = {"DATABASE": "other"}

    assert ids(mysql_checks.check_isolation()) == expected


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_mysql_that_takes_too_short_statements_is_a_warning(database: str, settings: Settings) -> None:
    assert mysql_checks.check_packet(databases=[database]) == []

    settings.TASKOPS = {**settings.TASKOPS, "PAYLOAD_MAX_BYTES": 8 * MIB}
    (message,) = mysql_checks.check_packet(databases=[database])
    assert message.id == "taskops.W009"
    assert str(32 * MIB) in str(message.hint)
    assert mysql_checks.check_packet(databases=["default"]) == []
