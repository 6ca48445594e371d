"""Which entry of the schedule a task comes from: Celery's beat knows, and tells nobody."""

from collections.abc import MutableMapping
from contextvars import ContextVar
from functools import wraps
from typing import Any

from . import headers as own

_entry: ContextVar[str] = ContextVar("taskops_periodic_task", default="")


def name_entries(scheduler: Any) -> None:
    """Lets every publish of `scheduler` know the name of its entry. In the process that runs beat."""
    apply_async = scheduler.apply_async

    @wraps(apply_async)
    def named(entry: Any, *args: Any, **kwargs: Any) -> Any:
        token = _entry.set(str(getattr(entry, "name", "")))
        try:
            return apply_async(entry, *args, **kwargs)
        finally:
            _entry.reset(token)

    scheduler.apply_async = named


def stamp(headers: MutableMapping[str, Any]) -> None:
    """Writes the entry that is being published, if any, on the message, so that its retries know it too."""
    if name := _entry.get():
        headers[own.PERIODIC_TASK] = name
