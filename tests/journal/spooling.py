"""What the tests of the spool share: a direct journal that only remembers, and processes that die."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from django_taskops.events import Record
from django_taskops.journal.codec import decode
from django_taskops.journal.spool import SpoolJournal
from django_taskops.journal.spool.folder import folder_of
from django_taskops.journal.spool.source import SpoolSource
from tests.workers import eventually

IDENTITY = "postgresql://shop"


class Remembering:
    """Stands where the direct journal does."""

    def __init__(self) -> None:
        self.events: list[Record] = []
        self.flushed = False

    def append(self, event: Record) -> None:
        self.events.append(event)

    def append_later(self, event: Record) -> None:
        self.append(event)

    def deferring(self) -> bool:
        return True

    def flush(self, **_signal: object) -> None:
        self.flushed = True

    def holder(self, key: str) -> str:
        return f"whoever has {key}"

    def claim(self, key: str, holder: str) -> str:
        return f"{key} is {holder}'s"

    def claim_beside(self, other: str, key: str, holder: str) -> tuple[str, str]:
        return self.holder(other), self.claim(key, holder)

    def prepare(self) -> None:
        raise NotImplementedError

    def claim_all(self, claims: Mapping[str, str]) -> None:
        self.claimed = dict(claims)


def the_folder() -> Path:
    return folder_of(IDENTITY)


def new_journal(*, collected: bool = True) -> SpoolJournal:
    journal = SpoolJournal(Remembering(), lambda: IDENTITY)
    if collected:
        journal.expect_collector()
    return journal


def new_source() -> SpoolSource:
    return SpoolSource(the_folder)


def read_all(source: SpoolSource | None = None) -> list[str]:
    """The task ids of all that waits, which is acknowledged."""
    source, found = source or new_source(), []
    while entries := source.read(limit=100, wait=0):
        found += [decode(entry.data).subject for entry in entries]
        source.acknowledge(entries)
    return found


def files() -> list[Path]:
    return sorted(the_folder().glob("*.spool"))


def in_child(work: Callable[[], object]) -> None:
    """Runs `work` in a forked process and waits for it; an error in it fails the test."""
    with child(work) as pid:
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """The id of a forked process that runs `work`; it is killed at the end, if it still runs."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        yield pid
    finally:
        kill(pid)


def kill(pid: int) -> None:
    """SIGKILL, and waits for the end."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def wait_for_files(count: int = 1) -> list[Path]:
    return eventually(lambda: found if len(found := files()) >= count else None)
