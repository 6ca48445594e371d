"""The Celery app under fire, with instruments that belong to the test alone."""

import os
from datetime import timedelta
from typing import Any

from celery import Celery
from celery.signals import celeryd_after_setup

from chaos import instruments

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chaos.settings")

app = Celery("chaos")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["chaos"])
instruments.watch_puts()


@celeryd_after_setup.connect(weak=False)
def prepare_worker(**_signal: Any) -> None:
    """Before it forks."""
    hasten()
    instruments.time_hooks()


def hasten() -> None:
    """What takes minutes in the field takes seconds here: the chaos of a minute has to come to its end."""
    from django_taskops.recovery import interrupted
    from django_taskops.recovery.reaper import redelivery

    redelivery.RESTORE_SECONDS = 5  # as the transport's options say
    interrupted.INTERRUPTED_AFTER = timedelta(seconds=15)
    interrupted.LONGEST_WAIT_SECONDS = 5
