"""What MySQL and MariaDB have of their own: texts that are one to them, deadlocks, packets, limits, clocks."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import OperationalError, connections, transaction
from django.db.models import ExpressionWrapper, F
from django.db.models.fields import DateTimeField

from django_taskops.models import DeadLetter, OutboxEntry, OutboxKind, TaskRun
from django_taskops.projection import limits, writer
from django_taskops.projection.clock import DatabaseNow
from django_taskops.projection.connection import own_connection
from tests.events import BEAT, Story
from tests.workers import eventually

pytestmark = [
    pytest.mark.parametrize("database", ["mariadb"], indirect=True),
    pytest.mark.django_db(transaction=True),
]
EXACT = {"utf8mb4_nopad_bin", "utf8mb4_0900_bin"}
KIB = 1024


def ask(database: str, statement: str) -> Any:
    with connections[database].cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def test_every_text_of_every_table_is_compared_byte_by_byte(database: str) -> None:
    """A migration that creates a table ends with `ExactText()`."""
    columns = ask(
        database,
        "SELECT table_name, column_name, collation_name FROM information_schema.columns "
        r"WHERE table_schema = DATABASE() AND table_name LIKE 'taskops\_%' AND collation_name IS NOT NULL",
    )

    assert len(columns) > 50
    assert [column for column in columns if column[2] not in EXACT] == []


def test_django_has_nothing_to_warn_of(database: str) -> None:
    from django.apps import apps

    assert run_checks(app_configs=[apps.get_app_config("taskops")], databases=[database]) == []


@contextmanager
def row_locked(database: str, task_id: str) -> Iterator[None]:
    """By a transaction of this thread."""
    with transaction.atomic(using=database):
        TaskRun.objects.select_for_update().get(task_id=task_id)
        yield


def test_a_deadlock_is_gone_through_again(database: str) -> None:
    first, second, *others = (Story(f"{number}") for number in range(12))
    writer.apply([story.published() for story in (first, second, *others)])
    deadlocks = _status(database, "Innodb_deadlocks")

    def write() -> None:
        try:
            writer.apply([first.started(), second.started()])
        finally:
            connections[database].close()

    with ThreadPoolExecutor(1) as threads, row_locked(database, second.task_id):
        # What has written most is let through: so it is not this one that is ended.
        TaskRun.objects.filter(task_id__in=[story.task_id for story in others]).update(owner=F("task_id"))
        written = threads.submit(write)
        eventually(lambda: _status(database, "Innodb_row_lock_current_waits") == 1)
        TaskRun.objects.filter(task_id=first.task_id).update(owner="another")
        transaction.set_rollback(False, using=database)
    written.result(timeout=30)

    assert _status(database, "Innodb_deadlocks") == deadlocks + 1
    assert set(TaskRun.objects.filter(state="STARTED").values_list("task_id", "owner")) == {("0", "another"), ("1", "")}


def _status(database: str, name: str) -> int:
    ((_name, number),) = ask(database, f"SHOW GLOBAL STATUS LIKE '{name}'")
    return int(number)


def test_a_task_waits_for_a_lock_no_longer_than_elsewhere_and_leaves_the_session_as_it_was(database: str) -> None:
    story = Story()
    writer.apply([story.published()])
    variables = "SELECT @@max_statement_time, @@innodb_lock_wait_timeout, @@wait_timeout"

    def write() -> tuple[bool, bool]:
        try:
            before = ask(database, variables)
            with pytest.raises(OperationalError) as refused:
                writer.apply_impatiently([story.started()])
            return limits.is_contention(refused.value), ask(database, variables) == before
        finally:
            connections[database].close()

    with row_locked(database, story.task_id), ThreadPoolExecutor(1) as threads:
        assert threads.submit(write).result(timeout=10) == (True, True)


def test_letters_with_large_envelopes_are_written_all_at_once(database: str) -> None:
    """Together they are more than the server takes in one statement."""
    ((packet,),) = ask(database, "SELECT @@max_allowed_packet")
    stories = [Story() for _ in range(1 + packet // (256 * KIB))]
    for story in stories:
        writer.apply([story.published(envelope=os.urandom(128) * 2 * KIB)])

    writer.apply([event for story in stories for event in (story.started(), story.failed())])

    assert DeadLetter.objects.filter(envelope__isnull=False).count() == len(stories)


def test_what_is_merged_has_been_read_as_it_is_by_now(database: str) -> None:
    """Whatever isolation level the project has chosen for itself."""
    connection = connections[database]
    usual = connection.settings_dict["OPTIONS"]
    connection.close()
    connection.settings_dict["OPTIONS"] = {**usual, "isolation_level": "repeatable read"}
    try:
        with limits.limited_transaction(limits.NONE):
            ours = _sees_what_others_commit(database)
        with transaction.atomic(using=database):
            theirs = _sees_what_others_commit(database)
    finally:
        connection.close()
        connection.settings_dict["OPTIONS"] = usual

    assert (ours, theirs) == (True, False)


def _sees_what_others_commit(database: str) -> bool:
    def write() -> None:
        try:
            writer.apply([Story().published()])
        finally:
            connections[database].close()

    before = TaskRun.objects.count()
    with ThreadPoolExecutor(1) as other:
        other.submit(write).result(timeout=30)
    return TaskRun.objects.count() == before + 1


def test_the_clock_of_the_database_knows_no_time_zone(database: str) -> None:
    ask(database, "SET time_zone = '+05:00'")
    later = ExpressionWrapper(DatabaseNow() + timedelta(hours=1), output_field=DateTimeField())
    entry = OutboxEntry.objects.create(kind=OutboxKind.LEASE, key="lease:test")
    try:
        OutboxEntry.objects.filter(pk=entry.pk).update(claimed_until=later)
        writer.apply([BEAT])
    finally:
        connections[database].close()

    entry.refresh_from_db()
    assert entry.claimed_until is not None
    assert abs(entry.claimed_until - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=5)


def test_a_forked_child_does_not_hold_the_drains_connection(database: str) -> None:
    with own_connection() as own:
        own.ensure_connection()
        stream = own.connection if hasattr(own.connection, "fileno") else own.connection._sock
        descriptor = stream.fileno()
        child = os.fork()
        if child == 0:
            os._exit(os.fstat(descriptor).st_rdev != os.stat(os.devnull).st_rdev)  # noqa: PTH116
        _pid, status = os.waitpid(child, 0)

        assert status == 0
        assert own.is_usable()
