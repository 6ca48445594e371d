"""Between rows and the values that merging works on. Columns and attributes have the same names.

Instants are aware in values; in rows they are as the project's USE_TZ wants them.
"""

from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from ..events import Call
from ..models import TaskAttempt, TaskRun
from .merge import Run
from .verdict import Delivery

_NOT_SHARED = ("retries", "frames", "result", "dead_letter_queue")
_DELIVERY = [field.name for field in fields(Delivery) if field.name not in _NOT_SHARED]
_CALL = [field.name for field in fields(Call) if field.name not in ("envelope", "envelope_error")]

RUN_FIELDS = ["task_name", "retries", "result", "enqueued_at", "described", *_DELIVERY, *_CALL]
ATTEMPT_FIELDS = ["number", "frames", *(name for name in _DELIVERY if name != "delivery")]


def run_of(row: TaskRun) -> Run:
    shown = Delivery(retries=row.retries, result=row.result, **_values(row, _DELIVERY))
    return Run(
        task_id=row.task_id,
        task_name=row.task_name,
        shown=shown,
        enqueued_at=_aware(row.enqueued_at),
        described=row.described,
        call=Call(**_values(row, _CALL)),
    )


def attempt_of(row: TaskAttempt) -> Delivery:
    shared = _values(row, _DELIVERY)
    return Delivery(retries=row.retries, frames=tuple(row.frames), **shared)


def fill_run(row: TaskRun, run: Run) -> TaskRun:
    """`row`, made to say what `run` says."""
    for name in _DELIVERY:
        setattr(row, name, stored(getattr(run.shown, name)))
    for name in _CALL:
        setattr(row, name, stored(getattr(run.call, name)))
    row.retries, row.result = run.shown.retries, run.shown.result
    row.task_name, row.enqueued_at, row.described = run.task_name, stored(run.enqueued_at), run.described
    return row


def new_attempt(run_pk: int, delivery: Delivery) -> TaskAttempt:
    shared = {name: stored(getattr(delivery, name)) for name in _DELIVERY}
    return TaskAttempt(run_id=run_pk, number=delivery.retries + 1, frames=list(delivery.frames), **shared)


def stored(value: Any) -> Any:
    """`value` as a column takes it: an aware instant becomes a naive one where the project has USE_TZ = False."""
    return timezone.make_naive(value) if isinstance(value, datetime) and not settings.USE_TZ else value


def _values(row: TaskRun | TaskAttempt, names: Iterable[str]) -> dict[str, Any]:
    return {name: _aware(getattr(row, name)) for name in names}


def _aware(value: Any) -> Any:
    return timezone.make_aware(value) if isinstance(value, datetime) and timezone.is_naive(value) else value
