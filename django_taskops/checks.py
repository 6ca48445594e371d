"""System checks. Each has a stable id, a hint and an entry in docs/checks.md."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from inspect import iscoroutinefunction
from typing import Any

from celery import current_app
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections
from django.utils.module_loading import import_string

from . import conf as configuration
from . import journal_checks, mysql_checks
from .capture.sealing import seal
from .conf import SETTINGS, conf
from .exceptions import EnvelopeError

SQLITE = "django.db.backends.sqlite3"


def register_all() -> None:
    for check, tags in _CHECKS:
        checks.register(check, *tags)
    checks.register(journal_checks.check_journal, "taskops", deploy=True)


def check_settings(**_kwargs: Any) -> list[CheckMessage]:
    try:
        return list(_settings())
    except ImproperlyConfigured as error:
        hint = "Make TASKOPS a dict, or delete it: every key has a default."
        return [Error(str(error), hint=hint, id="taskops.E001")]


def check_eager(**_kwargs: Any) -> list[CheckMessage]:
    if _under_test() or not current_app.conf.task_always_eager:
        return []
    return [
        checks.Warning(
            "Celery runs every task eagerly (task_always_eager): nothing reaches a worker.",
            hint="Set task_always_eager in the settings of the tests only.",
            id="taskops.W001",
        )
    ]


def check_status_permission(**_kwargs: Any) -> list[CheckMessage]:
    try:
        decides = import_string(conf.STATUS_PERMISSION) if conf.STATUS_PERMISSION else None
    except (ImportError, TypeError, AttributeError, ImproperlyConfigured) as error:
        return [_no_permission(f"it can't be imported: {error}")]
    if decides is not None and (not callable(decides) or iscoroutinefunction(decides)):
        return [_no_permission(f"got {decides!r}")]
    return []


def check_payload_keys(**_kwargs: Any) -> list[CheckMessage]:
    if not _is_usable("PAYLOAD_KEYS"):
        return []
    try:
        seal(b"")
    except EnvelopeError as error:
        return [
            Error(
                f"{error}. No message is kept, and no dead letter can be put back.",
                hint="A key is made by: python -c 'from cryptography.fernet import Fernet; "
                "print(Fernet.generate_key().decode())'.",
                id="taskops.E009",
            )
        ]
    return []


def check_sqlite(**_kwargs: Any) -> list[CheckMessage]:
    if not _is_usable("DATABASE"):
        return []
    database = settings.DATABASES[conf.DATABASE]
    if database.get("ENGINE") != SQLITE or database.get("OPTIONS", {}).get("transaction_mode") in _WRITING_MODES:
        return []
    return [
        checks.Warning(
            f"SQLite database {conf.DATABASE!r} opens its transactions in DEFERRED mode: those that read and then "
            "write can fail with 'database is locked' while tasks are recorded.",
            hint=f'Set DATABASES[{conf.DATABASE!r}]["OPTIONS"]["transaction_mode"] = "IMMEDIATE".',
            id="taskops.W002",
        )
    ]


def check_migrated(databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """Runs where databases are checked: `check --database`, and `migrate`, which creates the tables right after."""
    if not _is_usable("DATABASE") or conf.DATABASE not in (databases or ()) or "migrate" in sys.argv:
        return []
    try:
        tables = connections[conf.DATABASE].introspection.table_names()
    except DatabaseError as error:
        return [_not_migrated(f"Database {conf.DATABASE!r} can't be read: {error}")]
    if "taskops_taskrun" not in tables:
        return [_not_migrated(f"Database {conf.DATABASE!r} has no tables of django-taskops: no task is recorded.")]
    if "taskops_quarantinedentry" not in tables or not _workers_have_numbers():
        message = f"Database {conf.DATABASE!r} lacks tables of this release: what is recorded waits in the journal."
        return [Error(message, hint=_hint_to_migrate(), id="taskops.E005")]
    return []


def _workers_have_numbers() -> bool:
    """A column of the newest migration."""
    connection = connections[conf.DATABASE]
    with connection.cursor() as cursor:
        columns = connection.introspection.get_table_description(cursor, "taskops_workerbeat")
    return any(column.name == "number" for column in columns)


_WRITING_MODES = ("IMMEDIATE", "EXCLUSIVE")


def _settings() -> Iterator[CheckMessage]:
    for problem in configuration.problems():
        if problem.unknown:
            yield Error(
                f"TASKOPS has an unknown key {problem.key!r}.",
                hint=f"Known keys: {problem.expected}.",
                id="taskops.E001",
            )
        else:
            yield Error(
                f"TASKOPS[{problem.key!r}]: expected {problem.expected}, got {_told(problem)}.",
                hint="Correct the value, or delete the key: it has a default.",
                id="taskops.E002",
            )


def _told(problem: configuration.Problem) -> str:
    """Without what may be a password or a key: check output ends in logs."""
    if problem.key == "PAYLOAD_KEYS":
        return type(problem.got).__name__
    with_password = isinstance(problem.got, str) and "@" in problem.got
    return "an address with credentials" if with_password else repr(problem.got)


def _is_usable(key: str) -> bool:
    """False where the check of settings has something to say about it."""
    try:
        return SETTINGS[key].accepts(getattr(conf, key))
    except ImproperlyConfigured:
        return False


def _no_permission(got: str) -> CheckMessage:
    return Error(
        f"TASKOPS['STATUS_PERMISSION']: expected the path of a plain function of request and run, {got}.",
        hint='For example "orders.access.may_see_task". Until then nobody sees a status.',
        id="taskops.E004",
    )


def _not_migrated(message: str) -> CheckMessage:
    return Error(message, hint=_hint_to_migrate(), id="taskops.E003")


def _hint_to_migrate() -> str:
    return f"Run: python manage.py migrate --database {conf.DATABASE}"


def _under_test() -> bool:
    return "test" in sys.argv[1:2] or "PYTEST_CURRENT_TEST" in os.environ or "pytest" in sys.modules


_CHECKS: list[tuple[Callable[..., list[CheckMessage]], tuple[str, ...]]] = [
    (check_settings, ()),
    (check_eager, ()),
    (check_status_permission, ()),
    (check_payload_keys, ()),
    (check_sqlite, ()),
    (check_migrated, (Tags.database,)),
    (journal_checks.check_spool, ()),
    (mysql_checks.check_isolation, ()),
    (mysql_checks.check_packet, (Tags.database,)),
]
