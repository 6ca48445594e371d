"""The private RabbitMQ: who gets it, what it asks for, and that nothing of it stays."""

import signal
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from amqp.exceptions import AccessRefused
from kombu import Connection

from example_site import embedded_rabbitmq
from example_site.embedded import ServiceUnavailable
from tests.workers import eventually

ROOT = Path(__file__).parents[1]
PROGRAM = """
import pathlib, sys
from example_site.embedded_rabbitmq import own_rabbitmq

with own_rabbitmq(pathlib.Path(sys.argv[1])) as node:
    print(node.url, flush=True)
    input()
"""


def test_a_given_rabbitmq_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_URL", "amqp://shop@rabbitmq.example//")

    with embedded_rabbitmq.rabbitmq_server(tmp_path) as url:
        assert url == "amqp://shop@rabbitmq.example//"


def test_where_it_is_not_installed_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ServiceUnavailable, match="Install RabbitMQ, or set RABBITMQ_URL"):
        embedded_rabbitmq.rabbitmq_server(tmp_path).__enter__()


def test_a_node_that_ends_while_starting_is_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "rabbitmq-server"
    program.write_text("#!/bin/sh\necho no memory left\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(embedded_rabbitmq, "_programs", lambda: (str(program), "true"))

    with pytest.raises(ServiceUnavailable, match=r"exit with code 3[\s\S]*no memory left"):
        embedded_rabbitmq.own_rabbitmq(tmp_path).__enter__()
    assert not (tmp_path / "rabbitmq").exists()


def test_it_is_private_and_does_not_outlive_a_killed_parent(rabbitmq_url: str, tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a child of its parent's death")
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert parent.stdout is not None
    url = urlsplit(parent.stdout.readline().decode().strip())
    started = psutil.Process(parent.pid).children(recursive=True)
    try:
        assert {"epmd", "beam.smp"} <= {process.name() for process in started}
        assert stat.S_IMODE((tmp_path / "rabbitmq").stat().st_mode) == 0o700
        stranger = Connection(f"amqp://guest:guest@{url.hostname}:{url.port}//")
        with pytest.raises(AccessRefused):
            stranger.transport.establish_connection()
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.communicate()

    eventually(lambda: not any(_runs(process) for process in started), timeout=30)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
