"""What tests do to connections, in the words of each database."""

from contextlib import closing
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
