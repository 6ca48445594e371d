"""New code runs before `migrate` has: nothing is lost meanwhile, and nothing is taken for poison."""

from pathlib import Path

import pytest

from django_taskops.journal.keys import FIELD, Keys
from django_taskops.models import QuarantinedEntry
from tests.faults.accounts import RETRIED_ONCE, shape_of, wait_for_shapes
from tests.faults.own_database import OwnDatabase
from tests.faults.processes import Process, drain
from tests.faults.telling import tell
from tests.servers import RedisServer
from tests.workers import eventually

pytestmark = [
    pytest.mark.parametrize("database", ["default"], indirect=True),
    pytest.mark.usefixtures("journal_there"),
]


def test_a_drain_waits_for_the_first_migration(
    own_database: OwnDatabase, journal_redis: RedisServer, tmp_path: Path
) -> None:
    told = tell(5)
    with drain(tmp_path) as process:
        wait_until_it_waits(process)
        assert waiting(journal_redis) >= 25

        own_database.migrate()
        wait_for_shapes(told)


def test_a_drain_newer_than_the_tables_loses_nothing(
    own_database: OwnDatabase, journal_redis: RedisServer, tmp_path: Path
) -> None:
    """There is no quarantine yet: what belongs there waits in the journal as well."""
    own_database.migrate("taskops", "0001")
    told = tell(5)
    with journal_redis.client() as client:
        client.xadd(Keys.under("").events, {FIELD: b"poison"})
    told += tell(5)
    with drain(tmp_path) as process:
        wait_until_it_waits(process)
        told += tell(5)
        assert waiting(journal_redis) >= 25

        own_database.migrate()
        eventually(lambda: all(shape_of(story.task_id) == RETRIED_ONCE for story in told), 20)
        eventually(lambda: waiting(journal_redis) == 0, 20)
    assert bytes(QuarantinedEntry.objects.get().data) == b"poison"


def wait_until_it_waits(process: Process) -> None:
    eventually(lambda: "the drain waits for the database" in process.log_text(), 20)
    assert process.popen.poll() is None


def waiting(server: RedisServer) -> int:
    with server.client() as client:
        return sum(client.xlen(key) for key in Keys.under("")[:2])
