"""`set_progress`: how far a running task is."""

import sys

from celery._state import get_current_task

from ..exceptions import TaskOpsError
from . import lifecycle
from .shield import shielded


def set_progress(current: float, total: float | None = None, message: str = "") -> None:
    """Tells how far the running task is: `current` of `total` (None: no known end), in any unit.

    Written at most once a second, and always at the end (`current == total`). Does nothing outside a tracked task,
    so that the function can be called from anywhere. Raises TaskOpsError where the numbers are none.
    """
    if not _is_number(current):
        raise TaskOpsError(f"set_progress(current=...): expected a number, got {current!r}")
    if total is not None and not _is_number(total):
        raise TaskOpsError(f"set_progress(total=...): expected a number or None, got {total!r}")
    task = get_current_task()
    if task is not None:
        _report(task, current, total, message)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


_report = shielded(lifecycle.report_progress)
