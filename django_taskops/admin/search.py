"""What the search box finds: an exact task id, else parts of task names and of exception types. All by index."""

from typing import Any

from django import forms
from django.contrib.admin.views.main import SEARCH_VAR, ChangeListSearchForm
from django.db import connections
from django.db.models import Func, Q, QuerySet
from django.db.models.lookups import IContains

from ..capture.text import storable_id

MAX_NAMES = 1000


class StoredText(forms.CharField):
    """What was typed, as the tables hold it: an id with a NUL in it is found, and PostgreSQL is not shown any."""

    def to_python(self, value: Any) -> str:
        return storable_id(super().to_python(value) or "")


class SearchForm(ChangeListSearchForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields[SEARCH_VAR] = StoredText(required=False, strip=False)


def search(queryset: QuerySet[Any], query: str, failed: Q) -> QuerySet[Any]:
    """Rows of a model with `task_id`, `task_name` and `exception_type`. Each word has to be found.

    `failed` is true of every row that has an exception, in words that its index knows. `query` may be any text: not all
    of it has been through the search form, the autocomplete of another admin has a form of its own.
    """
    if not query.strip():
        return queryset
    exact = queryset.filter(task_id__in=ids_in(query))
    if exact.exists():
        return exact
    names = task_names(queryset)
    for word in storable_id(query).split():
        queryset = queryset.filter(_named(word, names) | (failed & Q(IContains(AnyCase("exception_type"), word))))
    return queryset


class AnyCase(Func):
    """A column for lookups that take "a" and "A" for one: MySQL does so by the collation, and ours tells them apart."""

    template = "%(expressions)s"

    def as_mysql(self, compiler: Any, connection: Any, **extra_context: Any) -> Any:
        template = "%(expressions)s COLLATE utf8mb4_general_ci"
        return self.as_sql(compiler, connection, template=template, **extra_context)


def ids_in(query: str) -> set[str]:
    """The ids that `query` may mean, as the tables hold them."""
    return {storable_id(query), storable_id(query.strip())}


def _named(word: str, names: list[str]) -> Q:
    condition = Q(task_name__in=[name for name in names if word.lower() in name.lower()])
    return condition | Q(task_name__startswith=word) if len(names) == MAX_NAMES else condition


def task_names(queryset: QuerySet[Any]) -> list[str]:
    """The first thousand task names of the queryset's table, each by one hop in the index that starts with them.

    SELECT DISTINCT would read the whole index: PostgreSQL and SQLite know no skip scan for it. MySQL does.
    """
    connection = connections[queryset.db]
    if connection.vendor == "mysql":
        names = queryset.model.objects.using(queryset.db).order_by("task_name").values_list("task_name", flat=True)
        return list(names.distinct()[:MAX_NAMES])
    table, column = map(connection.ops.quote_name, (queryset.query.get_meta().db_table, "task_name"))
    statement = f"""
        WITH RECURSIVE names(name) AS (
            SELECT MIN({column}) FROM {table}
            UNION ALL
            SELECT (SELECT MIN({column}) FROM {table} WHERE {column} > names.name) FROM names
            WHERE names.name IS NOT NULL
        )
        SELECT name FROM names WHERE name IS NOT NULL LIMIT {MAX_NAMES}
    """  # noqa: S608 made of the model's own names
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return [name for (name,) in cursor.fetchall()]
