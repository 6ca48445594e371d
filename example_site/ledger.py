"""The demo's own count of what Celery published and ended, kept without django-taskops.

Every process of the demo appends to one file named by EXAMPLE_SITE_LEDGER; the check at the end
compares it with the database. Without the variable nothing is recorded.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery.signals import after_task_publish, task_postrun

VARIABLE = "EXAMPLE_SITE_LEDGER"
UNFINISHED = {"RETRY", "-"}


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the file says: names and publishes of each task id, and the states its runs ended in."""

    names: dict[str, str] = field(default_factory=dict)
    published: Counter[str] = field(default_factory=Counter)
    ended: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        return cls.parse(path.read_text().splitlines() if path.exists() else ())

    @classmethod
    def parse(cls, lines: Iterable[str]) -> "Ledger":
        ledger = cls()
        for line in lines:
            event, task_id, detail = line.split("\t")
            if event == "published":
                ledger.names[task_id] = detail
                ledger.published[task_id] += 1
            else:
                ledger.ended[task_id].append(detail)
        return ledger

    def unsettled(self) -> set[str]:
        """The ids with a publish that has not ended; a retry publishes before its attempt ends."""
        return {
            task_id
            for task_id in self.published.keys() | self.ended.keys()
            if self.published[task_id] != len(self.ended.get(task_id, ()))
        }

    def verdict(self, task_id: str) -> str | None:
        """The last final state that a worker gave; None while there is none."""
        final = [state for state in self.ended.get(task_id, ()) if state not in UNFINISHED]
        return final[-1] if final else None


def connect() -> None:
    if VARIABLE in os.environ:
        after_task_publish.connect(_published, weak=False, dispatch_uid="example_site.published")
        task_postrun.connect(_ended, weak=False, dispatch_uid="example_site.ended")


def requeued(task_id: str, name: str) -> None:
    """Count a requeue: its message goes straight to the broker, without Celery's signals of a publish."""
    _append("published", task_id, name)


def _published(sender: str, headers: dict[str, Any], **_kwargs: Any) -> None:
    _append("published", headers["id"], sender)


def _ended(task_id: str, state: str | None = None, **_kwargs: Any) -> None:
    _append("ended", task_id, state or "-")


def _append(event: str, task_id: str, detail: str) -> None:
    # One write to a file opened for appending: lines of several processes never mix.
    handle = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{event}\t{task_id}\t{detail}\n".encode())
    finally:
        os.close(handle)
