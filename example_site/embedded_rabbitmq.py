"""Starts a private RabbitMQ node, where nobody runs one as a service.

Its ports, its cookie and its name service are its own, and it asks for a password. It is gone when the block ends, also
when this process is killed (on Linux). It keeps nothing: only its logs stay behind, in the folder given.
"""

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kombu import Connection
from kombu.exceptions import OperationalError

from .embedded import ServiceUnavailable, die_with_parent

START_SECONDS = 90
STOP_SECONDS = 30
POLL_SECONDS = 0.1
PORTS = range(20_000, 30_000)  # below those that the kernel gives to clients: the node takes its own seconds later
# Debian's program of this name insists on root or the service's own user; the one behind it does not.
PROGRAMS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`pid` is that of the process from which all of the node descends."""

    url: str
    pid: int


@contextmanager
def rabbitmq_server(folder: Path) -> Iterator[str]:
    """Yields the amqp:// URL of `RABBITMQ_URL`, else of a node of our own.

    Raises ServiceUnavailable where RabbitMQ is not installed or does not start.
    """
    if given := os.environ.get("RABBITMQ_URL"):
        yield given
        return
    with own_rabbitmq(folder) as node:
        yield node.url


@contextmanager
def own_rabbitmq(folder: Path) -> Iterator[Node]:
    """A node of our own, whatever `RABBITMQ_URL` says. Raises ServiceUnavailable as `rabbitmq_server` does."""
    server, names = _programs()
    home, log = folder / "rabbitmq", folder / "rabbitmq.log"
    password = secrets.token_urlsafe(24)
    try:
        _write_configuration(home, password)
        environment = _environment(home)
        names_port, port = environment["ERL_EPMD_PORT"], environment["RABBITMQ_NODE_PORT"]
        url = f"amqp://taskops:{password}@127.0.0.1:{port}//"
        # In the foreground: the one that the node would start by itself stays behind as a daemon.
        with (
            _running([names, "-address", "127.0.0.1", "-port", names_port], environment, folder / "epmd.log"),
            _running([server], environment, log) as process,
        ):
            _wait_until_ready(url, process, log)
            yield Node(url=url, pid=process.pid)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _programs() -> tuple[str, str]:
    server, names = next(filter(None, map(shutil.which, PROGRAMS)), None), shutil.which("epmd")
    if server is None or names is None:
        raise ServiceUnavailable(
            "Expected RABBITMQ_URL, or rabbitmq-server and epmd on PATH; at least one of the two programs is missing. "
            "Install RabbitMQ, or set RABBITMQ_URL."
        )
    return server, names


def _write_configuration(home: Path, password: str) -> None:
    """In files, since anybody may read a command line; in a folder that nobody else may enter."""
    home.mkdir(mode=0o700)
    (home / "rabbitmq.conf").write_text(f"default_user = taskops\ndefault_pass = {password}\n")
    (home / "advanced.config").write_text("[].\n")


def _environment(home: Path) -> dict[str, str]:
    """Leaves nothing to the machine's own configuration of RabbitMQ."""
    names_port, port, distribution_port = map(str, _free_ports(3))
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
        "HOME": str(home),  # the cookie
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": names_port,
        "RABBITMQ_NODENAME": f"taskops{os.getpid()}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": port,
        "RABBITMQ_DIST_PORT": distribution_port,
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_LOGS": "-",  # to standard output
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "none.conf"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
        "RABBITMQ_CONFIG_FILES": str(home / "more" / "*.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
    }


def _free_ports(count: int) -> set[int]:
    found: set[int] = set()
    while len(found) < count:
        port = random.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return found


@contextmanager
def _running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(url: str, node: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while node.poll() is None and time.monotonic() < deadline:
        with suppress(OperationalError, OSError), Connection(url, connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
            return
        time.sleep(POLL_SECONDS)
    ended = node.poll()
    what = f"{START_SECONDS} seconds of silence" if ended is None else f"its exit with code {ended}"
    tail = log.read_text(errors="replace")[-2000:]
    raise ServiceUnavailable(f"Expected RabbitMQ to answer, got {what}. Its log, {log}, ends with:\n{tail}")
