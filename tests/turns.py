"""The processes of `-n` share the machine. A test that measures time, marked `alone`, has it for itself: meanwhile the
others wait between two tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from pathlib import Path


@contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """The system gives back what a process holds that dies."""
    folder = Path(os.environ["TASKOPS_TEST_TURNS"])
    with (folder / "queue").open("w") as queue, (folder / "machine").open("w") as machine:
        flock(queue, LOCK_EX)  # one after the other: else there would always be somebody, and never a turn alone
        flock(machine, LOCK_EX if alone else LOCK_SH)
        flock(queue, LOCK_UN)
        try:
            yield
        finally:
            flock(machine, LOCK_UN)
