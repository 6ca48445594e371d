"""Imported by a worker whose main process is to drain itself, in a thread, and to get stuck in a transaction once
`stick()` was called in another process."""

import os
import time
from typing import Any

from django_taskops.projection import writer
from django_taskops.recovery import keeper
from tests.tasks import count, counters

VARIABLE = "TASKOPS_TEST_STICK"
_patched: Any = writer
_apply = writer._apply


def stick(key: str) -> None:
    counters().set(f"stick:{key}", 1)


def stuck(key: str) -> str:
    """The counter of how often it has got stuck."""
    return f"stuck:{key}"


def _stick(*given: Any) -> None:
    _apply(*given)
    key = os.environ[VARIABLE]
    if counters().exists(f"stick:{key}"):
        count(stuck(key))
        while True:
            time.sleep(60)


if VARIABLE in os.environ:
    keeper._command = lambda: ()
    _patched._apply = _stick
