"""Many rows in one statement, without an object for each: the writer's hot path.

PostgreSQL gets all rows as one JSON parameter and takes them apart itself; SQLite gets one prepared statement, and a
set of parameters for each row; MySQL gets statements of many rows.
"""

# ruff: noqa: S608, SLF001 the names are those of our own models, quoted; Django documents `_meta`

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from django.conf import settings
from django.db import IntegrityError, connections, models
from django.db.models.constants import OnConflict
from django.utils import timezone

from ..conf import conf

DUPLICATE = 1062  # MySQL's number of the error
STATEMENT_CHARS = 2 * 1024 * 1024  # a MySQL takes 16 MiB by default, and a character may be many bytes

_Row = TypeVar("_Row")
Rows = Sequence[Mapping[str, Any]]
"""Values by attribute name. What a row does not name gets the default of its field. Instants are aware."""


def insert(model: type[models.Model], rows: Rows, key: str) -> dict[str, int]:
    """Inserts the rows whose unique text `key` no other row has. Returns the primary keys by `key`: fewer than `rows`
    where another writer was first with one of them."""
    return _table(model).insert(rows, key) if rows else {}


def replace(model: type[models.Model], rows: Rows) -> None:
    """Inserts the rows; where the primary key is there already, overwrites all other columns."""
    if rows:
        _table(model).replace(rows)


def update(model: type[models.Model], rows: Rows) -> None:
    """Overwrites all columns of rows that are there, by their primary key."""
    if rows:
        _table(model).update(rows)


def upsert(model: Any, rows: Sequence[Any], *, unique: Sequence[str], update: Sequence[str]) -> None:
    """Inserts model instances; where another row has the same `unique` fields, overwrites its `update` fields."""
    if not rows:
        return
    named = connections[conf.DATABASE].features.supports_update_conflicts_with_target  # MySQL looks at every unique key
    for some in _portions(rows, lambda row: vars(row).values()):
        model.objects.bulk_create(
            some, update_conflicts=True, unique_fields=unique if named else None, update_fields=update
        )


class _Table:
    """The statements for one model on one connection, the rows given as `self.parameters(rows)`."""

    def __init__(self, model: type[models.Model], connection: Any) -> None:
        self.model = model
        self.connection = connection
        self.fields: list[Any] = list(model._meta.concrete_fields)
        self.pk: Any = model._meta.pk
        self.name = self.quoted(model._meta.db_table)
        self.others = [field for field in self.fields if field is not self.pk]

    def quoted(self, name: str) -> str:
        return str(self.connection.ops.quote_name(name))

    def columns(self, fields: Iterable[Any]) -> str:
        return ", ".join(self.quoted(field.column) for field in fields)

    def inserting(self, fields: Sequence[Any], on_conflict: OnConflict | None) -> str:
        return f"{self.connection.ops.insert_statement(on_conflict)} {self.name} ({self.columns(fields)})"

    def on_conflict(self, on_conflict: OnConflict | None, unique: str) -> str:
        update = [field.column for field in self.others] if on_conflict is OnConflict.UPDATE else []
        suffix = self.connection.ops.on_conflict_suffix_sql(self.fields, on_conflict, update, [unique])
        return str(suffix)


class _JsonTable(_Table):
    """For PostgreSQL. Rows leave out what equals its default: the JSON is the cost."""

    def insert(self, rows: Rows, key: str) -> dict[str, int]:
        returning = f"RETURNING {self.quoted(key)}, {self.quoted(self.pk.column)}"
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"{self.inserting(self.others, OnConflict.IGNORE)} SELECT {self.values(self.others)} "
                f"FROM {self.records(self.others)} {self.on_conflict(OnConflict.IGNORE, key)} {returning}",
                [_as_json(rows)],
            )
            return dict(cursor.fetchall())

    def replace(self, rows: Rows) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"{self.inserting(self.fields, OnConflict.UPDATE)} SELECT {self.values(self.fields)} "
                f"FROM {self.records(self.fields)} {self.on_conflict(OnConflict.UPDATE, self.pk.column)}",
                [_as_json(rows)],
            )

    def update(self, rows: Rows) -> None:
        columns, pk = [self.quoted(field.column) for field in self.others], self.quoted(self.pk.column)
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {self.name} SET ({', '.join(columns)}) = ROW({self.values(self.others)}) "
                f"FROM {self.records(self.fields)} WHERE {self.name}.{pk} = given.{pk}",
                [_as_json(rows)],
            )

    def records(self, fields: Iterable[Any]) -> str:
        types = ", ".join(f"{self.quoted(field.column)} {field.rel_db_type(self.connection)}" for field in fields)
        return f"json_to_recordset(%s::json) AS given({types})"

    def values(self, fields: Iterable[Any]) -> str:
        return ", ".join(self.value(field) for field in fields)

    def value(self, field: Any) -> str:
        given = f"given.{self.quoted(field.column)}"
        return given if field.null or field is self.pk else f"COALESCE({given}, {_literal(field.get_default())})"


class _PreparedTable(_Table):
    def insert(self, rows: Rows, key: str) -> dict[str, int]:
        statement = self.inserting(self.others, OnConflict.IGNORE)
        if self.executemany(statement, self.others, rows, OnConflict.IGNORE, key) != len(rows):
            return {}
        return self.pks(rows, key)

    def pks(self, rows: Rows, key: str) -> dict[str, int]:
        found = self.model._default_manager.filter(**{f"{key}__in": [row[key] for row in rows]})
        return dict(found.values_list(key, "pk"))

    def replace(self, rows: Rows) -> None:
        statement = self.inserting(self.fields, OnConflict.UPDATE)
        self.executemany(statement, self.fields, rows, OnConflict.UPDATE, self.pk.column)

    def update(self, rows: Rows) -> None:
        assignments = ", ".join(f"{self.quoted(field.column)} = %s" for field in self.others)
        pk = self.quoted(self.pk.column)
        with self.connection.cursor() as cursor:
            cursor.executemany(
                f"UPDATE {self.name} SET {assignments} WHERE {pk} = %s", self.sets([*self.others, self.pk], rows)
            )

    def executemany(
        self, statement: str, fields: Sequence[Any], rows: Rows, on_conflict: OnConflict | None, unique: str
    ) -> int:
        marks = ", ".join(["%s"] * len(fields))
        with self.connection.cursor() as cursor:
            cursor.executemany(
                f"{statement} VALUES ({marks}) {self.on_conflict(on_conflict, unique)}", self.sets(fields, rows)
            )
            return int(cursor.rowcount)

    def sets(self, fields: Sequence[Any], rows: Rows) -> list[list[Any]]:
        adapted = [(field.attname, self.adapter(field), field.get_default()) for field in fields]
        return [[adapt(row.get(name, default)) for name, adapt, default in adapted] for row in rows]

    def adapter(self, field: Any) -> Callable[[Any], Any]:
        if isinstance(field, models.DateTimeField):
            return lambda value: self.connection.ops.adapt_datetimefield_value(_as_configured(value))
        if isinstance(field, models.JSONField):
            return lambda value: None if value is None else json.dumps(value)
        return lambda value: value


class _MySQLTable(_PreparedTable):
    """Not by `executemany`: the drivers send row by row what they don't know, and MySQL's words are not all known."""

    def insert(self, rows: Rows, key: str) -> dict[str, int]:
        """Without IGNORE, which would also make fit what does not."""
        try:
            self.executemany(self.inserting(self.others, None), self.others, rows, None, key)
        except IntegrityError as error:
            if error.args[0] != DUPLICATE:
                raise
            return {}
        return self.pks(rows, key)

    def update(self, rows: Rows) -> None:
        """The rows are there and locked: to insert them is to overwrite them, many at a time."""
        self.replace(rows)

    def executemany(
        self, statement: str, fields: Sequence[Any], rows: Rows, on_conflict: OnConflict | None, unique: str
    ) -> int:
        marks, suffix = f"({', '.join(['%s'] * len(fields))})", self.on_conflict(on_conflict, unique)
        with self.connection.cursor() as cursor:
            for some in _portions(self.sets(fields, rows), iter):
                values = ", ".join([marks] * len(some))
                cursor.execute(f"{statement} VALUES {values} {suffix}", [value for row in some for value in row])
        return len(rows)


_TABLES: Mapping[str, type[_JsonTable | _PreparedTable]] = {
    "postgresql": _JsonTable,
    "sqlite": _PreparedTable,
    "mysql": _MySQLTable,
}


def _table(model: type[models.Model]) -> _JsonTable | _PreparedTable:
    connection = connections[conf.DATABASE]
    return _TABLES.get(connection.vendor, _PreparedTable)(model, connection)


def _portions(rows: Sequence[_Row], values: Callable[[_Row], Iterable[Any]]) -> Iterator[Sequence[_Row]]:
    """In their order, each as long as a statement may be, or one row that is longer by itself."""
    first = size = 0
    for index, row in enumerate(rows):
        chars = sum(len(value) for value in values(row) if isinstance(value, (str, bytes, memoryview)))
        if size and size + chars > STATEMENT_CHARS:
            yield rows[first:index]
            first, size = index, 0
        size += chars
    yield rows[first:]


def _as_json(rows: Rows) -> str:
    return _encode(rows)


def _jsonable(value: Any) -> str:
    """Instants and bytes as PostgreSQL reads them from a text."""
    return value.isoformat() if isinstance(value, datetime) else f"\\x{value.hex()}"


_encode = json.JSONEncoder(separators=(",", ":"), default=_jsonable).encode


def _literal(default: Any) -> str:
    """Of a default of ours: a number, a short text or an empty list."""
    if isinstance(default, int):
        return str(int(default))
    text = json.dumps(default) if isinstance(default, (list, dict)) else str(default)
    return "'{}'".format(text.replace("'", "''"))


def _as_configured(instant: datetime | None) -> datetime | None:
    """Naive where the project has USE_TZ = False."""
    return instant if instant is None or settings.USE_TZ else timezone.make_naive(instant)
