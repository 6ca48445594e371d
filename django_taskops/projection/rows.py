"""Between rows and the values that merging works on. Columns and attributes have the same names.

Instants are aware in values; in rows they are as the project's USE_TZ wants them.
"""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from ..events import Call
from ..models import TaskAttempt, TaskRun
from .merge import Run
from .verdict import Delivery

_NOT_SHARED = ("retries", "frames", "result", "dead_letter_queue", "parked")
_DELIVERY = [field.name for field in fields(Delivery) if field.name not in _NOT_SHARED]
_CALL = [field.name for field in fields(Call) if field.name not in ("envelope", "envelope_error")]
_SHOWN = [*_DELIVERY, "retries", "result"]
_RUN = ["task_id", "task_name", "enqueued_at", "described"]

RUN_COLUMNS = ["pk", *_RUN, *_SHOWN, *_CALL]
ATTEMPT_FIELDS = ["number", "frames", *(name for name in _DELIVERY if name != "delivery")]


def run_of(row: TaskRun) -> Run:
    return run_from([getattr(row, name) for name in RUN_COLUMNS])


def call_of(row: TaskRun) -> Call:
    return Call(**{name: _aware(getattr(row, name)) for name in _CALL})


def run_from(values: Sequence[Any]) -> Run:
    """`values` in the order of RUN_COLUMNS."""
    found = dict(zip(RUN_COLUMNS, values if settings.USE_TZ else map(_aware, values), strict=True))
    return Run(
        shown=Delivery(**{name: found[name] for name in _SHOWN}),
        call=Call(**{name: found[name] for name in _CALL}),
        **{name: found[name] for name in _RUN},
    )


def columns_of(run: Run) -> dict[str, Any]:
    """What the row of `run` says, but for its primary key and what is empty."""
    found = {name: value for name in _RUN if (value := getattr(run, name)) is not None and value != ""}
    for part, names in ((run.shown, _SHOWN), (run.call, _CALL)):
        for name in names:
            value = getattr(part, name)
            if value is not None and value != "":
                found[name] = value
    return found


def attempt_of(row: TaskAttempt) -> Delivery:
    shared = {name: _aware(getattr(row, name)) for name in _DELIVERY}
    return Delivery(retries=row.retries, frames=tuple(row.frames), **shared)


def new_attempt(run_pk: int, delivery: Delivery) -> TaskAttempt:
    shared = {name: stored(getattr(delivery, name)) for name in _DELIVERY}
    return TaskAttempt(run_id=run_pk, number=delivery.retries + 1, frames=list(delivery.frames), **shared)


def stored(value: Any) -> Any:
    """`value` as a column takes it: an aware instant becomes a naive one where the project has USE_TZ = False."""
    return timezone.make_naive(value) if isinstance(value, datetime) and not settings.USE_TZ else value


def _aware(value: Any) -> Any:
    return timezone.make_aware(value) if isinstance(value, datetime) and timezone.is_naive(value) else value
