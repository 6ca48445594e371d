"""A question to all workers, by Celery's remote control: which boot are you? Whoever answers lives, whatever becomes of
its beats."""

from typing import Any

from celery.worker.control import inspect_command

from .worker import boot_id

COMMAND = "taskops_boot"


@inspect_command(name=COMMAND)
def taskops_boot(_state: Any) -> str:
    """The boot id of this worker."""
    return boot_id()
