"""The Celery app of the tests, in this process and in the workers that tests start."""

import os
from typing import Any

from celery import Celery
from celery.signals import worker_init

from tests.broken import break_journal

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

app = Celery("tests")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["tests", "tests.lifecycle", "tests.parking", "tests.workflows"])
if os.environ.get("TASKOPS_TEST_BROKEN_JOURNAL"):
    worker_init.connect(break_journal, weak=False)


@worker_init.connect(weak=False)
def hide_settings(**kwargs: Any) -> None:
    """As in a project that configures Django by hand: this process has its settings, a fresh one would find none."""
    if os.environ.get("TASKOPS_TEST_NO_CHILD"):
        os.environ["DJANGO_SETTINGS_MODULE"] = "elsewhere"


def route(
    name: str, args: Any, kwargs: Any, options: dict[str, Any], task: object = None, **rest: object
) -> dict[str, str]:
    """Read at each publish: a queue of its own keeps a test's messages from every other test's worker."""
    return {"queue": os.environ.get("TASKOPS_TEST_QUEUE", "celery")}
