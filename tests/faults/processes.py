"""Processes of the tests that are no workers: drains, and scripts that publish."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.conf import settings

from django_taskops import journal
from example_site.embedded import die_with_parent
from tests.workers import BrokerQueue, _worker_environment, eventually

ROOT = Path(__file__).parents[2]
SECONDS = 30


def environment(**taskops: object) -> Mapping[str, str]:
    """What gives another process the settings, the databases and the queue that this test has now."""
    queue = BrokerQueue(os.environ.get("TASKOPS_TEST_QUEUE", "celery"))
    return os.environ | _worker_environment(queue, {**settings.TASKOPS, **taskops}, {})


@dataclass(frozen=True, slots=True)
class Process:
    popen: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def output(self, seconds: float = SECONDS) -> str:
        """All that it writes, once it has ended well."""
        self.popen.wait(seconds)
        assert self.popen.returncode == 0, self.log_text()
        return self.log_text()

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self.popen.kill()
        self.popen.wait()

    def terminate(self, seconds: float = SECONDS) -> int:
        """SIGTERM, waits for the end, and returns the exit code."""
        self.popen.terminate()
        return self.popen.wait(seconds)


@contextmanager
def python(log: Path, *arguments: str, given: Mapping[str, str] | None = None) -> Iterator[Process]:
    """`python <arguments>`; it and what it has forked is killed at the end."""
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=given or environment(),
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509
        )
    try:
        yield Process(popen, log)
    finally:
        _kill_group(popen)


def _kill_group(popen: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()


@contextmanager
def drain(folder: Path, *options: str, given: Mapping[str, str] | None = None) -> Iterator[Process]:
    """A `taskops_drain` with these settings."""
    log = folder / f"drain-{len(list(folder.glob('drain-*.log')))}.log"
    with python(log, "-m", "django", "taskops_drain", *options, given=given) as process:
        yield process


def wait_until_drained_by(process: Process, sources: Sequence[str] = ("redis", "spool")) -> None:
    def holders() -> bool:
        if process.popen.poll() is not None:
            pytest.fail(f"the drain ended with {process.popen.returncode}:\n{process.log_text()}")
        found = {source.name: source.backlog().holder.split()[1:2] for source in journal.sources()}
        return all(found[name] == [str(process.pid)] for name in sources)

    eventually(holders, SECONDS, f"{process.pid} to drain")
