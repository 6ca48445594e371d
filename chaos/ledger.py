"""The independent record: what tasks, publishers, requeuers and the killer did, one line for each write.

Appended without a buffer and with O_APPEND, so that a SIGKILL loses nothing and lines never mix. Its clock is the
machine's monotonic one, which all processes share. Knows nothing of what it is used to judge.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

LEDGER = "CHAOS_LEDGER"


class What(StrEnum):
    """What a line says. A task: start, then end, raised or retried. A client of the broker: put or put_failed."""

    CLOCK = "clock"  # `detail["wall"]` at `at`
    START = "start"
    END = "end"
    RAISED = "raised"
    RETRIED = "retried"
    OURS = "ours"  # `detail`: nanoseconds spent in the app's code in one execution of a task
    CALLED = "called"  # `delay()` has returned
    REFUSED = "refused"  # it has raised
    PUT = "put"  # the broker has taken a message
    PUT_FAILED = "put_failed"  # nobody knows whether it has
    DECIDED = "decided"  # a requeue has returned
    DECLINED = "declined"  # it has raised
    FAULT = "fault"  # `detail`: kind, pids, and whatever it did
    MENDED = "mended"  # the same, when it is over
    GONE = "gone"  # a worker has ended that nobody killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`at` in nanoseconds. `tag` names one copy of a message in the broker."""

    what: What
    at: int = field(default_factory=time.monotonic_ns)
    pid: int = field(default_factory=os.getpid)
    task_id: str = ""
    task: str = ""
    publication: str = ""
    generation: int = 0
    retries: int = 0
    delivery: str = ""
    redelivered: bool = False
    tag: str = ""
    nonce: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def epoch(self) -> tuple[str, str, int]:
        return (self.task_id, self.publication, self.generation)


def append(line: Line) -> None:
    """To the file that the environment names."""
    data = json.dumps({name: value for name, value in asdict(line).items() if value not in ("", {}, None)})
    os.write(_descriptor(), f"{data}\n".encode())


_opened: dict[str, int] = {}


def _descriptor() -> int:
    """One for each file; a forked child appends through its parent's."""
    path = os.environ[LEDGER]
    if path not in _opened:
        _opened[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return _opened[path]


def read(path: Path) -> Iterator[Line]:
    """In the order in which they were written."""
    with path.open() as lines:
        for text in lines:
            told = json.loads(text)
            yield Line(**{**told, "what": What(told["what"])})
