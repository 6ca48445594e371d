"""Steps of workflows that say in their results what they were given, and that fail for as long as a test wants."""

import os
import signal
import time
from typing import Any

from celery import Task, shared_task

from tests.tasks import Declined, count, counters


@shared_task
def node(*given: Any, name: str) -> str:
    """Returns its name and what it was given, `name` without the test's own prefix."""
    return _work(name, given)


@shared_task(time_limit=1)
def limited(*given: Any, name: str) -> str:
    """As `node`; while it is broken it runs into its hard time limit."""
    if counters().exists(f"broken:{name}"):
        count(f"failed:{name}")
        time.sleep(30)
    return _work(name, given)


@shared_task
def killed(*given: Any, name: str) -> str:
    """As `node`; while it is broken its process is killed."""
    if counters().exists(f"broken:{name}"):
        count(f"failed:{name}")
        os.kill(os.getpid(), signal.SIGKILL)
    return _work(name, given)


@shared_task(bind=True)
def replaced(self: "Task[Any, Any]", *given: Any, name: str) -> str:
    """Replaces itself by a `node` of the same name."""
    replacement: Any = node.s(*given, name=name)
    return str(self.replace(replacement))


@shared_task
def errback(*_args: Any, **_kwargs: Any) -> str:
    return "told"


def _work(name: str, given: Any) -> str:
    if counters().exists(f"broken:{name}"):
        count(f"failed:{name}")
        raise Declined(f"{name} is broken")
    waits = counters().exists(f"held:{name}")
    deadline = time.monotonic() + 30
    while waits and not counters().exists(f"go:{name}") and time.monotonic() < deadline:
        time.sleep(0.02)
    count(f"succeeded:{name}")
    return f"{name.rpartition('-')[2]}({', '.join(map(str, given))})"
