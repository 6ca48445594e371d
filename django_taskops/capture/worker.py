"""Who executes: this boot of this worker. Forked children share their parent's boot id."""

import os
import uuid
from typing import Any

from ..conf import conf
from ..events import Executor
from .text import storable

_boot_id = str(uuid.uuid4())
_main_pid = 0


def note_main_process() -> None:
    """Called in the worker's main process, before it forks: a new boot, whatever process it was forked from."""
    global _main_pid, _boot_id  # noqa: PLW0603
    _main_pid = os.getpid()
    _boot_id = str(uuid.uuid4())


def boot_id() -> str:
    return _boot_id


def in_main_process() -> bool:
    return os.getpid() == _main_pid


def executor(task: Any, hostname: object, *, pid: int | None) -> Executor:
    """`pid` is that of the process that runs the task; None where the worker's main process speaks of it. What runs
    eagerly has no boot: nobody beats for it."""
    return Executor(
        worker=storable(hostname),
        boot_id="" if task.request.is_eager else _boot_id,
        pid=pid,
        version=storable(conf.version(), 100),
        acks_late=bool(task.acks_late),
    )
