"""Every Celery task of a Django project accounted for, and its failures re-run safely."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .capture.decorator import tracked_task
    from .capture.progress import set_progress
    from .states import DeadLetterReason, TaskState

__version__ = "0.1.0"

__all__ = ["DeadLetterReason", "TaskState", "set_progress", "tracked_task"]

_HOMES = {
    "DeadLetterReason": ".states",
    "TaskState": ".states",
    "set_progress": ".capture.progress",
    "tracked_task": ".capture.decorator",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
