"""The clock of the database, by which what several hosts have written can be compared."""

from typing import Any

from django.db.models.functions import Now


class DatabaseNow(Now):
    """`Now()`, but in UTC on MySQL too: there Django's is in the time zone of the server, whose clock is put back an
    hour each autumn."""

    def as_mysql(self, compiler: Any, connection: Any, **extra_context: Any) -> Any:
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)", **extra_context)
