"""Imported while the worker runs, by Celery's own `pool_restart`."""

from tests.beside.late import register

register("beside.late.by_reload")
