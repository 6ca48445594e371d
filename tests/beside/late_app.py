"""A project that registers tasks late: in handlers of its own that are called after this package's, in a task."""

from typing import Any

from celery import shared_task, signals

from tests.beside.late import register
from tests.celery_app import app


@signals.celeryd_init.connect(weak=False)
def connect_last(**_signal: object) -> None:
    """This package is connected by now."""
    signals.worker_init.connect(_register_at_init, weak=False)


def _register_at_init(**_signal: object) -> None:
    register("beside.late.by_worker_init")


@signals.worker_ready.connect(weak=False)
def register_when_ready(sender: Any, **_signal: object) -> None:
    """Known to the main process alone, so that only pools that run tasks there can run it."""
    register("beside.late.by_worker_ready")
    sender.update_strategies()


@shared_task(name="beside.register")
def register_another() -> None:
    """Known after the next `pool_restart`, in the process that runs this."""
    register("beside.late.by_task")


__all__ = ["app"]
