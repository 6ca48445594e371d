"""The demo's own processes: each in a session of its own, watched, and stopped with all that it started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from example_site.embedded import die_with_parent
from example_site.places import CHECKOUT

STOP_SECONDS = 15
POLL_SECONDS = 0.1


class ProcessEnded(RuntimeError):
    """A process that should run until it is stopped ended by itself."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        super().__init__(name, code, log)
        self.name, self.code, self.log = name, code, log

    def __str__(self) -> str:
        tail = self.log.read_text(errors="replace")[-2000:]
        return f"Expected {self.name} to run, it exited with code {self.code}. Its log, {self.log}, ends with:\n{tail}"


@dataclass(slots=True, kw_only=True)
class Processes:
    """Those that run now, by name; the logs stand in the folder."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *arguments: str) -> None:
        """Run this Python with the arguments; the kernel stops it when the driver is killed (Linux)."""
        with self._log(name).open("wb") as output:
            self.running[name] = subprocess.Popen(  # noqa: S603
                [sys.executable, *arguments],
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the driver, which stops the others in order
                preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509
            )

    def check(self) -> None:
        """Raises ProcessEnded."""
        for name, process in self.running.items():
            if (code := process.poll()) is not None:
                raise ProcessEnded(name, code, self._log(name))

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether the condition came true in time; raises ProcessEnded."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def stop(self, *names: str) -> None:
        """Ask the named ones to end, all at once, and kill what is left of them after `STOP_SECONDS`."""
        stopped = [self.running.pop(name) for name in names]
        for process in stopped:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in stopped:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            _kill_session(process)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    # Also where the process itself has ended: a pool's children may have outlived it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def own_processes(folder: Path) -> Iterator[Processes]:
    """Stops every process at the end of the block, whatever ends it."""
    processes = Processes(folder=folder)
    try:
        yield processes
    finally:
        with _undisturbed():
            processes.stop(*processes.running)


@contextmanager
def _undisturbed(signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)) -> Iterator[None]:
    """A second Ctrl-C must not leave half of the processes behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
