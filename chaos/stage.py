"""What the chaos takes place on: a durable Redis, a PostgreSQL, a proxy before both, and the processes of a project."""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from chaos.faults import POSTGRES, REDIS
from chaos.ledger import LEDGER
from example_site.embedded import die_with_parent, postgres_settings
from tests.servers import PostgresServer, RedisServer, give_own_machine, own_postgres, own_redis

ROOT = Path(__file__).parents[1]
DATABASE = "chaos"
STOP_SECONDS = 10
MEMORY = Path("/dev/shm")


@dataclass(slots=True, kw_only=True)
class Stage:
    folder: Path
    redis: RedisServer
    postgres: PostgresServer
    proxy: "subprocess.Popen[str]"
    ports: list[int]
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    def environment(self, *, proxied: bool) -> dict[str, str]:
        """Of a process that reaches the servers directly, or through the proxy."""
        redis, database = self.redis.url, self.postgres.database(DATABASE)
        if proxied:
            password = urlsplit(redis).password
            redis = f"redis://:{password}@127.0.0.1:{self.ports[REDIS]}/0"
            database = f"postgresql://postgres@127.0.0.1:{self.ports[POSTGRES]}/{DATABASE}"
        return {
            "DJANGO_SETTINGS_MODULE": "chaos.settings",
            "CHAOS_REDIS_URL": redis,
            "CHAOS_DATABASE_URL": database,
            "CHAOS_FOLDER": str(self.folder),
            LEDGER: str(self.ledger),
        }

    def start(self, log: str, *command: str, proxied: bool, talks: bool = False) -> "subprocess.Popen[bytes]":
        """`python <command>` in a session of its own. `talks` where it is given orders, and answers."""
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else output,
                stderr=output,
                env=os.environ | self.environment(proxied=proxied),
                cwd=ROOT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509
            )
        self.started.append(process)
        return process

    def start_redis(self) -> None:
        """What it has confirmed survives its SIGKILL: with `everysec` it may put off a write for two seconds."""
        self.redis.start(durable=True)
        self.redis.configure(appendfsync="always", auto_aof_rewrite_min_size="16mb")

    def has_called(self) -> bool:
        """Something was published."""
        return b'"called"' in self.ledger.read_bytes()

    def cut(self, target: int) -> None:
        assert self.proxy.stdin is not None
        self.proxy.stdin.write(f"cut {target}\n")
        self.proxy.stdin.flush()


@contextmanager
def set_up(folder: Path) -> Iterator[Stage]:
    """All servers run, the tables are there, and this process is set up to read them."""
    with ExitStack() as stack:
        redis = stack.enter_context(own_redis(stack.enter_context(_in_memory(folder))))
        postgres = stack.enter_context(own_postgres())
        postgres.create(DATABASE)
        proxy, ports = _start_proxy(str(redis.port), _socket_of(postgres))
        stack.callback(proxy.kill)
        redis.stop()
        stage = Stage(folder=folder, redis=redis, postgres=postgres, proxy=proxy, ports=ports)
        stage.start_redis()
        stack.callback(_end, stage.started)
        os.environ |= stage.environment(proxied=False)
        _migrate()
        yield stage


@contextmanager
def _in_memory(folder: Path) -> Iterator[Path]:
    """A folder for Redis that outlives its SIGKILL, as a disk does, and costs no time to write to: with `always` each
    reply waits for the disk, and here everybody waits for that of one machine."""
    if not os.access(MEMORY, os.W_OK):
        yield folder / "redis"
        return
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=MEMORY) as found:
        yield Path(found)


def _socket_of(postgres: PostgresServer) -> str:
    settings = postgres_settings(postgres.url)
    return str(Path(str(settings["HOST"])) / ".s.PGSQL.5432")


def _start_proxy(*targets: str) -> tuple["subprocess.Popen[str]", list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "chaos.proxy", *targets],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509
    )
    assert process.stdout is not None
    give_own_machine(process.pid)  # as the network has it
    return process, [int(port) for port in process.stdout.readline().split()]


def _migrate() -> None:
    import django
    from django.core.management import call_command

    django.setup()
    importlib.import_module("chaos.app")  # makes it the current app of this process
    call_command("migrate", verbosity=0)


def _end(processes: list["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
