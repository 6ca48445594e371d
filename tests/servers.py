"""Servers of a test's own: it may stop them, let them hang, fill them, and start them again."""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import psycopg
import redis
from psycopg import sql

from example_site.embedded import (
    UNPRIVILEGED,
    ServiceUnavailable,
    _create_cluster,
    _postgres_programs,
    _redis_answers,
    _redis_executable,
    _running_postgres,
    _Server,
    postgres_database,
)

PORTS = range(20_000, 30_000)  # below those that the kernel gives to clients, one of which might come in between
ATTEMPTS = 5
REPLY_SECONDS = 5
PRIORITY = 1  # the lowest of real time, which is above all that is not


def give_own_machine(pid: int) -> None:
    """As Redis has it in the field. Here it shares two cores with dozens of processes: whoever asks it would wait until
    the scheduler has served those. Does nothing without the right to."""
    with suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))


@dataclass(slots=True, kw_only=True)
class RedisServer:
    """Keeps its address from one start to the next, and nothing else, unless it is started with `durable`."""

    folder: Path
    port: int = 0
    password: str = field(default_factory=partial(secrets.token_urlsafe, 24))
    _server: _Server | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.process.pid

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=REPLY_SECONDS)

    def start(self, *, durable: bool = False) -> None:
        """`durable`: with its append-only file, which a later start with `durable` reads."""
        for attempt in range(ATTEMPTS):
            self.port = self.port or _free_port()
            server = self._started(durable=durable)
            try:
                server.wait_until(partial(_redis_answers, self.url))
            except ServiceUnavailable:
                server.stop()
                if attempt == ATTEMPTS - 1 or "Address already in use" not in server.log_text():
                    raise
                self.port = 0
            else:
                self._server = server
                give_own_machine(self.pid)
                return

    def _started(self, *, durable: bool) -> _Server:
        lines = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self.password,
            "dir": json.dumps(str(self.folder.resolve())),
            "save": '""',
            "appendonly": "yes" if durable else "no",
        }
        return _Server.start(
            "Redis",
            [_redis_executable(), "-"],
            self.folder / "redis.log",
            configuration="".join(f"{key} {value}\n" for key, value in lines.items()),
            stop_signal=signal.SIGKILL,  # reaches it also when it hangs
        )

    def stop(self) -> None:
        """As a crash does, though not of the machine. Does nothing where it has stopped."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def pause(self) -> None:
        """It hangs: connections are still accepted, by the kernel, and nothing is answered."""
        assert self._server is not None
        self._server.process.send_signal(signal.SIGSTOP)
        while psutil.Process(self._server.process.pid).status() != psutil.STATUS_STOPPED:
            pass

    def resume(self) -> None:
        assert self._server is not None
        self._server.process.send_signal(signal.SIGCONT)

    def configure(self, **settings: object) -> None:
        with self.client() as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), str(value))


@contextmanager
def own_redis(folder: Path) -> Iterator[RedisServer]:
    folder.mkdir(exist_ok=True)
    server = RedisServer(folder=folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@dataclass(slots=True, kw_only=True)
class PostgresServer:
    """Keeps its address and its data from one start to the next."""

    home: Path
    owner: str | None
    programs: Path
    url: str = ""
    _running: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        log = self.home / "postgres.log"
        self.url = self._running.enter_context(_running_postgres(self.programs, self.home, self.owner, log))

    def stop(self) -> None:
        """Its clients are thrown out. Does nothing where it has stopped."""
        self._running.close()

    def database(self, name: str) -> str:
        """The URL of a database of that name."""
        return postgres_database(self.url, name)

    def create(self, name: str, *, like: str = "template1") -> str:
        """A new database, a copy of `like`; returns its URL."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(like))
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)
        return self.database(name)


@contextmanager
def own_postgres() -> Iterator[PostgresServer]:
    owner = UNPRIVILEGED if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        programs = _postgres_programs(home, owner)
        if owner:
            shutil.chown(home, owner)
        _create_cluster(programs, home, owner)
        server = PostgresServer(home=home, owner=owner, programs=programs)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def own_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes in memory. Raises ServiceUnavailable where this user may not mount one."""
    folder.mkdir()
    options = f"size={size},mode=0700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "taskops-tests", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ServiceUnavailable(f"Expected to mount a disk for this test, got: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Returns the file that takes up all the room there was."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return ballast
    raise AssertionError("expected a full disk")


def remount(disk: Path, how: str) -> None:
    """`how`: "ro" or "rw"."""
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
