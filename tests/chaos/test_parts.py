"""What the chaos run is made of: its plan, its ledger, its proxy."""

import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from chaos import ledger
from chaos.faults import KILLS, QUIET, Kind, Scenario, plan
from chaos.ledger import Line, What
from chaos.proxy import HOST
from chaos.stage import _start_proxy
from tests.workers import eventually

WORKER_TIMEOUT = 6.0


def test_a_seed_draws_the_same_plan_again() -> None:
    assert plan("7", 60, Scenario.A, WORKER_TIMEOUT) == plan("7", 60, Scenario.A, WORKER_TIMEOUT)
    assert plan("7", 60, Scenario.A, WORKER_TIMEOUT) != plan("8", 60, Scenario.A, WORKER_TIMEOUT)


@pytest.mark.parametrize("scenario", list(Scenario))
def test_a_minute_has_twenty_kills_of_each_kind_and_something_of_everything(scenario: Scenario) -> None:
    counts = Counter(fault.kind for fault in plan("7", 60, scenario, WORKER_TIMEOUT))
    assert all(counts[kind] >= 20 for kind in KILLS)
    assert set(counts) == set(Kind)


def test_pauses_stay_below_half_of_the_timeout_in_one_scenario_and_exceed_it_in_the_other() -> None:
    short, long = ([fault.lasts for fault in plan("7", 60, each, WORKER_TIMEOUT)] for each in Scenario)
    assert max(short) < WORKER_TIMEOUT / 2
    assert max(long) > WORKER_TIMEOUT


def test_the_reaper_has_a_quiet_time_in_each_minute() -> None:
    begin, end = QUIET
    faults = [fault for fault in plan("7", 120, Scenario.A, WORKER_TIMEOUT) if fault.kind is not Kind.KILL_CHILD]
    assert {fault.at // 60 for fault in faults} == {0, 1}
    assert not [fault for fault in faults if begin < fault.at % 60 / 60 < end]


def test_lines_of_several_processes_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    line = "ledger.Line(what=ledger.What.PUT, retries=number, task_id='x' * 200)"
    script = f"from chaos import ledger\nfor number in range(300): ledger.append({line})"
    writers = [
        subprocess.Popen([sys.executable, "-c", script], env=os.environ | {ledger.LEDGER: str(path)}) for _ in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]

    lines = list(ledger.read(path))
    assert Counter(line.retries for line in lines) == dict.fromkeys(range(300), 3)
    assert len({line.pid for line in lines}) == 3


def test_a_line_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ledger.LEDGER, str(tmp_path / "ledger.jsonl"))
    line = Line(what=What.START, task_id="a", generation=1, redelivered=True, detail={"pids": [1]})
    ledger.append(line)
    assert list(ledger.read(tmp_path / "ledger.jsonl")) == [line]


def test_the_proxy_cuts_what_goes_through_it_and_goes_on() -> None:
    with _echo() as port, _proxy(port) as (process, proxied):
        with _connected(proxied) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"
            assert process.stdin is not None
            process.stdin.write("cut 0\n")
            process.stdin.flush()
            with pytest.raises(ConnectionResetError):
                client.recv(10)
        with _connected(proxied) as client:
            client.sendall(b"again")
            assert client.recv(10) == b"again"


def test_the_proxy_keeps_its_address_while_nobody_is_behind_it() -> None:
    with _echo() as port:
        pass
    with _proxy(port) as (_process, proxied):
        with pytest.raises(ConnectionResetError), _connected(proxied) as client:  # it may be reset at once
            client.recv(10)
        with _echo(port), _connected(proxied) as client:
            client.sendall(b"back")
            assert client.recv(10) == b"back"


@contextmanager
def _proxy(port: int) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    process, (proxied,) = _start_proxy(str(port))
    try:
        yield process, proxied
    finally:
        process.kill()
        process.wait()


@contextmanager
def _echo(port: int = 0) -> Iterator[int]:
    server = socket.create_server((HOST, port))

    def serve() -> None:
        while True:
            try:
                connection, _address = server.accept()
            except OSError:
                return
            threading.Thread(target=_echo_all, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        eventually(lambda: not thread.is_alive())


def _echo_all(connection: socket.socket) -> None:
    with connection, suppress(ConnectionResetError):
        while data := connection.recv(100):
            connection.sendall(data)


def _connected(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), timeout=10)
