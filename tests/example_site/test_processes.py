"""Process control, on real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from example_site.processes import ProcessEnded, own_processes

SECONDS = 20
# Says its process id and waits; the second one does not listen to a polite request.
SLEEPER = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEPER
# A parent whose child stays when the parent ends.
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]); {SLEEPER}"
DRIVER = (
    "import sys; from pathlib import Path; from example_site.processes import own_processes\n"
    "with own_processes(Path(sys.argv[1])) as processes:\n"
    "    processes.start('sleeper', '-c', sys.argv[2])\n"
    "    processes.wait_until(lambda: False, 60)\n"
)


def test_the_block_stops_what_was_started(tmp_path: Path) -> None:
    with own_processes(tmp_path) as processes:
        processes.start("sleeper", "-c", SLEEPER)
        assert processes.wait_until(lambda: len(said(tmp_path)) == 1, SECONDS)
    assert gone(said(tmp_path))


def test_children_of_a_stopped_process_are_stopped_too(tmp_path: Path) -> None:
    with own_processes(tmp_path) as processes:
        processes.start("sleeper", "-c", PARENT)
        assert processes.wait_until(lambda: len(said(tmp_path)) == 2, SECONDS)
    assert gone(said(tmp_path))


def test_one_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("example_site.processes.STOP_SECONDS", 0.1)
    with own_processes(tmp_path) as processes:
        processes.start("sleeper", "-c", STUBBORN)
        assert processes.wait_until(lambda: len(said(tmp_path)) == 1, SECONDS)
    assert gone(said(tmp_path))


def test_one_that_ends_by_itself_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with own_processes(tmp_path) as processes:
        processes.start("sleeper", "-c", "import sys; sys.exit('no port left')")
        with pytest.raises(ProcessEnded, match=r"sleeper to run, it exited with code 1(.|\n)*no port left"):
            processes.wait_until(lambda: False, SECONDS)


def test_waiting_ends_at_its_deadline(tmp_path: Path) -> None:
    with own_processes(tmp_path) as processes:
        assert not processes.wait_until(lambda: False, 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the kernel's parent death signal")
def test_nothing_stays_when_the_driver_is_killed(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), SLEEPER])
    wait_for(lambda: len(said(tmp_path)) == 1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert gone(said(tmp_path))


def said(folder: Path) -> list[int]:
    log = folder / "sleeper.log"
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def gone(pids: list[int]) -> bool:
    assert pids
    wait_for(lambda: not any(map(_runs, pids)))
    return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that nobody waits for, since its parent is gone too, has ended all the same.
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
