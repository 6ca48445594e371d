"""The package as its users import it."""

import subprocess
import sys

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from pytest_django import Settings

import django_taskops
from django_taskops import recovery
from django_taskops.conf import conf

FRESH = """
import sys
import django_taskops
loaded = [name for name in sys.modules if name.startswith(("celery", "django.db"))]
assert not loaded, loaded
"""


def test_the_public_names_are_exactly_these() -> None:
    assert set(django_taskops.__all__) == {"DeadLetterReason", "TaskState", "set_progress", "tracked_task"}
    assert set(recovery.__all__) == {"Decision", "Reaped", "discard", "reap", "requeue", "restore"}
    for name in django_taskops.__all__:
        assert getattr(django_taskops, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'tracked_tasks'"):
        django_taskops.tracked_tasks  # noqa: B018


def test_importing_the_package_loads_neither_celery_nor_models() -> None:
    subprocess.run([sys.executable, "-c", FRESH], check=True)


def test_settings_are_read_live_and_fall_back_to_defaults(settings: Settings) -> None:
    settings.TASKOPS = {"RECORD_RECEIVED": True}
    assert (conf.RECORD_RECEIVED, conf.DEAD_LETTER) == (True, "all")

    del settings.TASKOPS
    assert conf.RECORD_RECEIVED is False
    with pytest.raises(AttributeError, match="expected one of JOURNAL"):
        conf.JOURNALS  # noqa: B018


@pytest.mark.parametrize(
    ("track", "ignore", "name", "tracked"),
    [
        (["*"], ["celery.*"], "shop.tasks.price", True),
        (["*"], ["celery.*"], "celery.backend_cleanup", False),
        (["shop.*"], [], "other.task", False),
        (["shop.*"], ["*.noisy"], "shop.noisy", False),
    ],
)
def test_names_are_tracked_by_patterns(
    settings: Settings, track: list[str], ignore: list[str], name: str, *, tracked: bool
) -> None:
    settings.TASKOPS = {"TRACK": track, "IGNORE": ignore}

    assert conf.tracks(name) is tracked


def test_the_version_comes_from_the_setting_else_from_the_environment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKOPS_VERSION", "from the environment")
    assert conf.version() == "from the environment"

    settings.TASKOPS = {"VERSION": "1.2"}
    assert conf.version() == "1.2"


@pytest.mark.django_db(databases=["default", "sqlite"])
def test_no_migration_is_missing() -> None:
    call_command("makemigrations", "taskops", "--check", "--dry-run", verbosity=0)


@pytest.mark.django_db(transaction=True)
def test_migrations_go_back_and_forth(database: str) -> None:
    try:
        MigrationExecutor(connections[database]).migrate([("taskops", None)])
        assert "taskops_taskrun" not in connections[database].introspection.table_names()
    finally:
        executor = MigrationExecutor(connections[database])
        executor.migrate(executor.loader.graph.leaf_nodes("taskops"))
    assert "taskops_taskrun" in connections[database].introspection.table_names()
