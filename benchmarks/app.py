"""The Celery app that is measured, and its task, in the worker and in the publisher."""

import os
from typing import Any

from celery import Celery, shared_task

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")

app = Celery("benchmarks")
app.config_from_object("django.conf:settings", namespace="CELERY")


@shared_task
def noop(*args: Any, **kwargs: Any) -> None:
    """Does nothing, so that all that is measured is what happens around a task."""
