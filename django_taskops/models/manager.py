"""Where the tables are: every query of the package goes through `TASKOPS["DATABASE"]`, whatever the routers say."""

from typing import Any

from django.db import models

from ..conf import conf


class TaskOpsManager(models.Manager[Any]):
    """A manager bound to the database of the setting, read at each query. `using()` and `db_manager()` still win.

    Each model has it as its base manager too, so that related objects come from there as well.
    """

    use_in_migrations = False

    @property
    def db(self) -> str:
        return self._db or conf.DATABASE

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().using(self.db)
