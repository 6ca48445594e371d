"""Who executes: this boot of this worker. Forked children share their parent's boot id."""

import os
import uuid
from typing import Any

from ..conf import conf
from ..events import Executor
from .text import storable

BOOT_ID = str(uuid.uuid4())
_main_pid = 0


def note_main_process() -> None:
    """Called in the worker's main process, before it forks."""
    global _main_pid  # noqa: PLW0603
    _main_pid = os.getpid()


def in_main_process() -> bool:
    return os.getpid() == _main_pid


def executor(task: Any, hostname: object, *, pid: int | None) -> Executor:
    """`pid` is that of the process that runs the task; None where the worker's main process speaks of it."""
    return Executor(
        worker=storable(hostname),
        boot_id=BOOT_ID,
        pid=pid,
        version=storable(conf.version(), 100),
        acks_late=bool(task.acks_late),
    )
