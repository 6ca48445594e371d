"""System checks of a MySQL or MariaDB that holds the tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections

from .conf import MIB, conf, problems
from .projection.limits import READ_COMMITTED

LEAST_PACKET = 16 * MIB
ESCAPED = 4  # bytes of a statement for each byte of a payload, at most


def check_isolation(**_kwargs: Any) -> list[CheckMessage]:
    level = str(_options().get("isolation_level", READ_COMMITTED)).lower()
    if level == READ_COMMITTED:
        return []
    return [
        checks.Warning(
            f"MySQL database {conf.DATABASE!r} has the isolation level {level!r}: what is decided on dead letters may "
            "rest on what was read before another has decided, and recording waits for locks of rows beside its own.",
            hint=f'Delete DATABASES[{conf.DATABASE!r}]["OPTIONS"]["isolation_level"]: the default is "read committed".',
            id="taskops.W008",
        )
    ]


def check_packet(databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """Asks the server, where databases are checked."""
    size = _packet() if _is_mysql() and conf.DATABASE in (databases or ()) else None
    least = max(LEAST_PACKET, ESCAPED * conf.PAYLOAD_MAX_BYTES) if size else 0
    if size is None or size >= least:
        return []
    return [
        checks.Warning(
            f"MySQL database {conf.DATABASE!r} takes statements of up to {size} bytes, expected {least} at least: "
            "tasks with large arguments may not be recorded.",
            hint=f"Set max_allowed_packet of the server to {least}, or lower TASKOPS['PAYLOAD_MAX_BYTES'].",
            id="taskops.W009",
        )
    ]


def _is_mysql() -> bool:
    """False where the check of settings has something to say."""
    try:
        wrong = {problem.key for problem in problems()} & {"DATABASE", "PAYLOAD_MAX_BYTES"}
    except ImproperlyConfigured:
        return False
    return not wrong and str(settings.DATABASES[conf.DATABASE].get("ENGINE")).endswith(".mysql")


def _options() -> Mapping[str, Any]:
    options: Mapping[str, Any] = settings.DATABASES[conf.DATABASE].get("OPTIONS", {}) if _is_mysql() else {}
    return options


def _packet() -> int | None:
    """None where the database is away, which another check says."""
    try:
        with connections[conf.DATABASE].cursor() as cursor:
            cursor.execute("SELECT @@max_allowed_packet")
            return int(cursor.fetchone()[0])
    except DatabaseError:
        return None
