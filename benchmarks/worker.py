"""A prefork worker with two processes, and what its process tree uses."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from celery import Celery

from example_site.embedded import die_with_parent

from .brokers import QUEUE
from .errors import NotMeasured
from .project import ROOT, Project

PROCESSES = 2
START_SECONDS = 60
STOP_SECONDS = 15
NAME = "bench@localhost"


@dataclass(frozen=True, slots=True)
class Worker:
    process: psutil.Process
    control: Any
    log: Path

    def consume(self) -> None:
        """Asks it to read the queue with the tasks as well. With Redis it begins when its current read times out."""
        self.control.add_consumer(QUEUE, destination=[NAME])

    def executed(self) -> int:
        """How many tasks its processes have been given and have accepted since its start."""
        stats = self.control.inspect([NAME], timeout=30).stats() or {}
        return sum(stats.get(NAME, {"total": {}})["total"].values())

    def cpu(self) -> float:
        return cpu_of(self.process)

    def check(self) -> None:
        """Raises NotMeasured where the worker has ended."""
        if not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE:
            raise NotMeasured("expected the worker to run, it has ended", self.log_end())

    def log_end(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


def cpu_of(root: psutil.Process | None) -> float:
    """User and system seconds of a process tree so far, with those of its processes that have ended."""
    used = 0.0
    for process in [root, *root.children(recursive=True)] if root else []:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


@contextmanager
def running_worker(project: Project, queue: str = "idle") -> Iterator[Worker]:
    """A worker that is ready and reads `queue`; it is gone when the block ends, with all its processes."""
    log = project.folder / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.app", "worker", "-n", NAME, "-Q", queue]
    # The default log level of `celery worker`: a line per task would slow everybody down, and flatter the ratios.
    command += ["-P", "prefork", "-c", str(PROCESSES), "--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=project.environment(),
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509
        )
    try:
        with Celery("benchmarks-driver", broker=project.broker.url, set_as_current=False) as app:
            worker = Worker(psutil.Process(process.pid), app.control, log)
            _wait_until_ready(worker)
            yield worker
    finally:
        _stop(process)


def _wait_until_ready(worker: Worker) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not worker.control.ping([NAME], timeout=0.5, limit=1):
        worker.check()
        if time.monotonic() > deadline:
            raise NotMeasured("expected the worker to be ready, it is not", worker.log_end())


def _stop(process: subprocess.Popen[bytes]) -> None:
    """A warm shutdown; SIGKILL to what is left of it after `STOP_SECONDS`."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print("  the worker has not stopped when asked to, and was killed", file=sys.stderr)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
