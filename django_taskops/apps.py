"""Connects the rooms when Django starts: the journal gets the writer, capture gets Celery's signals."""

import atexit

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TaskOpsConfig(AppConfig):
    name = "django_taskops"
    label = "taskops"
    verbose_name = _("Task operations")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from celery import signals
        from celery.exceptions import SoftTimeLimitExceeded

        from . import checks
        from .capture import receivers
        from .journal import use
        from .journal.direct import DirectJournal
        from .projection import writer
        from .recovery import housekeeper

        checks.register_all()
        journal = DirectJournal(writer, passing=(SoftTimeLimitExceeded,))
        use(journal)
        atexit.register(journal.flush)
        receivers.connect()
        signals.worker_ready.connect(housekeeper.start, weak=False, dispatch_uid="taskops.housekeeper.start")
        signals.worker_process_shutdown.connect(journal.flush, weak=False, dispatch_uid="taskops.flush")
        signals.worker_shutdown.connect(housekeeper.stop, weak=False, dispatch_uid="taskops.housekeeper.stop")
