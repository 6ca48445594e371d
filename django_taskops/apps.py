"""Connects the rooms when Django starts: the journal gets the writer, capture gets Celery's signals."""

import atexit
from collections.abc import Callable
from importlib import import_module
from typing import Any

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TaskOpsConfig(AppConfig):
    name = "django_taskops"
    label = "taskops"
    verbose_name = _("Task operations")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from celery.exceptions import SoftTimeLimitExceeded

        from . import checks, journal
        from .capture import receivers
        from .journal.choice import SettingsChoice
        from .journal.direct import DirectJournal
        from .projection import writer

        checks.register_all()
        direct = DirectJournal(writer, passing=(SoftTimeLimitExceeded,))
        journal.install(SettingsChoice(direct, writer.identity, writer.database_id))
        atexit.register(journal.flush)
        receivers.connect()
        _serve_in_workers()


def _serve_in_workers() -> None:
    """What runs beside the tasks, in a worker's main process."""
    from celery import signals

    from . import journal
    from .capture import pulse

    atexit.register(pulse.stop)  # after what else is registered: exits are handled last in, first out

    for signal, name, serve in (
        (signals.worker_init, "expect_collector", journal.expect_collector),
        (signals.worker_ready, "pulse.start", pulse.start),
        (signals.worker_ready, "keeper.start", _recovery("keeper", "start")),
        (signals.worker_ready, "housekeeper.start", _recovery("housekeeper", "start")),
        (signals.worker_process_init, "prepare", journal.prepare),
        (signals.worker_process_shutdown, "flush", journal.flush),
        (signals.worker_shutdown, "pulse.stop", pulse.stop),
        (signals.worker_shutdown, "keeper.stop", _recovery("keeper", "stop")),
        (signals.worker_shutdown, "housekeeper.stop", _recovery("housekeeper", "stop")),
    ):
        signal.connect(serve, weak=False, dispatch_uid=f"taskops.{name}")


def _recovery(module: str, function: str) -> Callable[..., None]:
    """Imported when it is called: of all processes of a project, only its workers need it. A receiver each, since
    Celery keeps the failure of one from the others."""

    def receive(**_signal: Any) -> None:
        getattr(import_module(f".recovery.{module}", __package__), function)()

    return receive
