"""A RabbitMQ node of our own: its ports, its folder, its cookie and its name service, all gone when the block ends."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from kombu import Connection
from kombu.exceptions import OperationalError

from example_site.embedded import die_with_parent

from .brokers import RabbitBroker
from .errors import NotMeasured

START_SECONDS = 90
STOP_SECONDS = 30
# Debian's program of this name insists on root or the service's own user; the one behind it does not.
PROGRAMS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")


@contextmanager
def rabbit_broker(folder: Path) -> Iterator[RabbitBroker]:
    """Raises NotMeasured where RabbitMQ is not installed or does not start."""
    server, names = next(filter(None, map(shutil.which, PROGRAMS)), None), shutil.which("epmd")
    if server is None or names is None:
        raise NotMeasured("expected rabbitmq-server and epmd on PATH, at least one of them is missing")
    folder.mkdir(exist_ok=True)
    environment = _environment(folder)
    epmd_port = environment["ERL_EPMD_PORT"]
    url = f"amqp://guest:guest@127.0.0.1:{environment['RABBITMQ_NODE_PORT']}//"
    # In the foreground: the one that the node would start by itself stays behind as a daemon.
    with (
        _running([names, "-address", "127.0.0.1", "-port", epmd_port], environment, folder / "epmd.log"),
        _running([server], environment, folder / "rabbitmq.log") as node,
    ):
        version = _wait_until_ready(url, node, folder / "rabbitmq.log")
        with Connection(url) as connection:
            yield RabbitBroker(url, connection, psutil.Process(node.pid), version)


def _environment(folder: Path) -> dict[str, str]:
    ports = [str(_free_port()) for _ in range(3)]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
        "HOME": str(folder),  # the cookie
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": ports[0],
        "RABBITMQ_NODENAME": f"bench{os.getpid()}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": ports[1],
        "RABBITMQ_DIST_PORT": ports[2],
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
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


def _wait_until_ready(url: str, node: subprocess.Popen[bytes], log: Path) -> str:
    """The version of the node that answers."""
    deadline = time.monotonic() + START_SECONDS
    while node.poll() is None and time.monotonic() < deadline:
        with suppress(OperationalError, OSError), Connection(url, connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
            return str(connection.connection.server_properties["version"])
        time.sleep(0.2)
    raise NotMeasured("expected RabbitMQ to answer, it has not", log.read_text(errors="replace")[-2000:])
