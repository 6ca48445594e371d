"""Tasks that are registered when their module is imported late, each by `register`."""

import os
import signal
import time
from typing import Any

from celery import Task, shared_task

from tests.tasks import Declined, counters


def register(name: str) -> None:
    """A task of that name, which does what it is told."""

    @shared_task(bind=True, name=name, max_retries=3, default_retry_delay=0)
    def behave(self: "Task[Any, Any]", how: str, key: str = "") -> str:
        if how == "sleep":
            time.sleep(30)
        if how == "be killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "retry twice" and self.request.retries < 2:
            raise self.retry(exc=Declined(f"retry {self.request.retries}"))
        if how == "break until healed" and not counters().exists(f"healed:{key}"):
            raise Declined(f"{key} is broken")
        if how == "retry until healed" and not counters().exists(f"healed:{key}"):
            raise self.retry(exc=Declined(f"{key} is broken"))
        return how
