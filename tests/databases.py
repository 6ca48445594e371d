"""What tests do to connections, in the words of each database."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from django.db import connections

_NUMBER = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
_END = {"postgresql": "SELECT pg_terminate_backend(%s)", "mysql": "KILL %s"}


def number_of(connection: Any) -> int:
    """By which its server knows it."""
    with connection.cursor() as cursor:
        cursor.execute(_NUMBER[connection.vendor])
        return int(cursor.fetchone()[0])


def end(database: str, number: int) -> None:
    """Has the server break that connection."""
    with closing(connections.create_connection(database)) as other, other.cursor() as cursor:
        cursor.execute(_END[other.vendor], [number])


@contextmanager
def refused_inserts(database: str, table: str, refusal: str) -> Iterator[None]:
    """Each insert into `table` meets this statement of the database's procedural language."""
    with closing(connections.create_connection(database)) as other, other.cursor() as cursor:
        for statement in _REFUSE[other.vendor]:
            cursor.execute(statement.format(table=table, refusal=refusal))
        try:
            yield
        finally:
            for statement in _ALLOW[other.vendor]:
                cursor.execute(statement.format(table=table))


_REFUSE = {
    "postgresql": (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {refusal}; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()",
    ),
    "mysql": ("CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW {refusal}",),
}
_ALLOW = {
    "postgresql": ("DROP TRIGGER refuse ON {table}", "DROP FUNCTION refuse()"),
    "mysql": ("DROP TRIGGER refuse",),
}
