"""How long our transactions wait for others, whatever hangs, and what it looks like when they have waited in vain, or
when the database takes no writes at all.

Each database has words of its own for it, and each driver numbers of its own.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, Error, OperationalError, connections, transaction

from ..conf import conf

LOCK_WAIT_MILLISECONDS = 200
READ_COMMITTED = "read committed"

_DEADLOCKS = {"40P01", 1213}
# Serialization, lock timeouts, statement timeouts.
_CONTENTION = {"40001", "55P03", "57014", 1205, 1969, 3024} | _DEADLOCKS
# Read-only, rights that are missing, insufficient resources, disks that are full or fail.
_UNWRITABLE = {"25006", "42501", "53000", "53100", "53200", "53300", "53400", "58030"} | {
    *(1021, 1114, 1142, 1290, 1792, 1836),
    *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """By the names of each database's own settings; `sqlite` is the busy timeout in milliseconds, None as it is.

    Those of `mysql` hold for MariaDB where `mariadb` is None: a MySQL waits for a lock for a second at least.
    """

    postgresql: Mapping[str, int | str] = field(default_factory=dict)
    mysql: Mapping[str, float] = field(default_factory=dict)
    mariadb: Mapping[str, float] | None = None
    sqlite: int | None = None


NONE = Limits()
IMPATIENT = Limits(
    postgresql={"lock_timeout": LOCK_WAIT_MILLISECONDS},
    mysql={"innodb_lock_wait_timeout": 1, "lock_wait_timeout": 1},
    mariadb={"max_statement_time": LOCK_WAIT_MILLISECONDS / 1000},
    sqlite=LOCK_WAIT_MILLISECONDS,
)
BACKGROUND = Limits(
    postgresql={
        "lock_timeout": 5_000,
        "statement_timeout": 30_000,
        "idle_in_transaction_session_timeout": 30_000,
    },
    mysql={"innodb_lock_wait_timeout": 5, "lock_wait_timeout": 5, "wait_timeout": 30},
    mariadb={"innodb_lock_wait_timeout": 5, "lock_wait_timeout": 5, "wait_timeout": 30, "max_statement_time": 30},
)


@contextmanager
def limited_transaction(limits: Limits) -> Iterator[None]:
    """A transaction of its own within `limits`, or a savepoint inside an open one, whose limits stay what they are
    but on PostgreSQL."""
    connection = connections[conf.DATABASE]
    with ExitStack() as session:
        if not connection.in_atomic_block:
            session.enter_context(_session(connection, limits))
        with transaction.atomic(using=conf.DATABASE):
            limit_transaction(limits)
            yield


def limit_transaction(limits: Limits) -> None:
    """For PostgreSQL, until the end of the transaction."""
    connection = connections[conf.DATABASE]
    if limits.postgresql and connection.vendor == "postgresql":
        calls = ", ".join("set_config(%s, %s, true)" for _ in limits.postgresql)
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {calls}", [text for pair in limits.postgresql.items() for text in map(str, pair)])


def is_deadlock(error: Exception) -> bool:
    """True where the database has ended the transaction in favour of another: begun again, it may well pass."""
    return isinstance(error, OperationalError) and bool(_codes(error) & _DEADLOCKS)


def is_contention(error: Exception) -> bool:
    """True where another transaction stood in the way, and nothing is wrong with what was written."""
    return isinstance(error, OperationalError) and (bool(_codes(error) & _CONTENTION) or "locked" in str(error))


def is_unwritable(error: Exception) -> bool:
    """True where the database takes no writes for now, whatever they are: it is read-only or full, or denies us the
    right."""
    return isinstance(error, DatabaseError) and bool(_codes(error) & _UNWRITABLE)


def _codes(error: DatabaseError) -> set[Any]:
    """PostgreSQL's SQLSTATE, MySQL's number, SQLite's primary result code; PyMySQL tells the first two."""
    of_sqlite = getattr(error.__cause__, "sqlite_errorcode", None)
    return {
        getattr(error.__cause__, "sqlstate", None),
        of_sqlite and of_sqlite & 0xFF,  # the rest says more closely what it was
        *error.args[:1],
    }


@contextmanager
def _session(connection: Any, limits: Limits) -> Iterator[None]:
    """What can't be said inside a transaction."""
    if connection.vendor == "sqlite" and limits.sqlite is not None:
        with _busy_timeout(connection, limits.sqlite):
            yield
    elif connection.vendor == "mysql":
        with _variables(connection, _of_mysql(connection, limits)):
            if connection.isolation_level != READ_COMMITTED and connection.autocommit:
                _execute(connection, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED")  # of the next one alone
            yield
    else:
        yield


@contextmanager
def _busy_timeout(connection: Any, milliseconds: int) -> Iterator[None]:
    """SQLite waits for its one writer at the begin of a transaction, as long as the connection says."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        before = cursor.fetchone()[0]
        cursor.execute(f"PRAGMA busy_timeout = {milliseconds}")
    try:
        yield
    finally:
        _execute(connection, f"PRAGMA busy_timeout = {before}")


def _of_mysql(connection: Any, limits: Limits) -> Mapping[str, float]:
    connection.ensure_connection()  # which also settles its isolation level
    is_mariadb = limits.mariadb is not None and connection.mysql_is_mariadb
    return limits.mariadb if limits.mariadb is not None and is_mariadb else limits.mysql


@contextmanager
def _variables(connection: Any, values: Mapping[str, float]) -> Iterator[None]:
    """The session keeps what they were in variables of its own."""
    if not values:
        yield
        return
    pairs = (f"@taskops_{name} = @@{name}, SESSION {name} = {value}" for name, value in values.items())
    _execute(connection, f"SET {', '.join(pairs)}")
    session = connection.connection
    try:
        yield
    finally:
        if connection.connection is session:  # a broken one has taken its limits along
            with suppress(Error):
                _execute(connection, f"SET {', '.join(f'SESSION {name} = @taskops_{name}' for name in values)}")


def _execute(connection: Any, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
