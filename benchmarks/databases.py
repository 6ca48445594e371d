"""PostgreSQL and SQLite as the driver sees them: it migrates them once, empties them often and counts rows."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from example_site.embedded import die_with_parent, postgres_server

from .errors import NotMeasured

DATABASES = ("postgresql", "sqlite", "sqlite-own")
RECORDERS = ("results", "taskops")


@contextmanager
def running_database(name: str, folder: Path) -> Iterator["Database"]:
    """`name` is one of DATABASES; the last is SQLite where django-taskops has a file of its own."""
    folder = folder / name
    folder.mkdir(exist_ok=True)
    if name == "postgresql":
        with _postgres(folder) as found:
            yield found
    else:
        yield _sqlite(name, folder)


@dataclass(frozen=True, slots=True)
class Postgres:
    name: str
    version: str
    environment: dict[str, str]
    taskops: dict[str, str]
    process: psutil.Process
    connection: psycopg.Connection[Any]

    def reset(self) -> None:
        tables = self.connection.execute(
            "SELECT tablename FROM pg_tables"
            " WHERE tablename LIKE 'taskops\\_%' OR tablename LIKE 'django\\_celery\\_results\\_%'"
        )
        names = ", ".join(f'"{table}"' for (table,) in tables)
        self.connection.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
        self.connection.execute("CHECKPOINT")

    def number(self, query: str) -> float | None:
        """The only value of a query."""
        row = self.connection.execute(query).fetchone()
        return None if row is None or row[0] is None else float(row[0])

    def epoch(self, instant: str) -> str:
        """SQL for an instant as seconds since 1970."""
        return f"extract(epoch FROM {instant})"


@contextmanager
def _postgres(folder: Path) -> Iterator[Postgres]:
    with postgres_server(folder) as url, psycopg.connect(url, autocommit=True) as connection:
        environment = {"BENCH_POSTGRES_URL": url, "BENCH_FOLDER": str(folder)}
        for recorder in RECORDERS:
            _migrate(environment, recorder)
        server = psutil.Process(connection.info.backend_pid).parent()
        assert server is not None
        version = connection.info.parameter_status("server_version") or ""
        yield Postgres("postgresql", version, environment, {}, server, connection)


@dataclass(frozen=True, slots=True)
class Sqlite:
    """`rows` is the file that the counted tables are in."""

    name: str
    version: str
    environment: dict[str, str]
    taskops: dict[str, str]
    folder: Path
    process = None

    def reset(self) -> None:
        for file in self.folder.glob("*.sqlite3*"):
            file.unlink()
        for file in (self.folder / "empty").iterdir():
            shutil.copy(file, self.folder)

    def number(self, query: str) -> float | None:
        own = self.taskops and "taskops_" in query
        file = self.folder / ("taskops.sqlite3" if own else "project.sqlite3")
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=20)) as connection:
            (value,) = connection.execute(query).fetchone()
        return None if value is None else float(value)

    def epoch(self, instant: str) -> str:
        return f"(julianday({instant}) - 2440587.5) * 86400"


Database = Postgres | Sqlite


def _sqlite(name: str, folder: Path) -> Sqlite:
    """Migrated files are kept aside, and copied for each run."""
    taskops = {"DATABASE": "taskops"} if name == "sqlite-own" else {}
    environment = {"BENCH_POSTGRES_URL": "", "BENCH_FOLDER": str(folder)}
    for recorder in RECORDERS:
        _migrate(environment, recorder)
    if taskops:
        _migrate(environment, "taskops", "--database", "taskops")
    (folder / "empty").mkdir()
    for file in folder.glob("*.sqlite3"):
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(file, folder / "empty")
    return Sqlite(name, sqlite3.sqlite_version, environment, taskops, folder)


def _migrate(environment: dict[str, str], variant: str, *options: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--settings", "benchmarks.settings", "--pythonpath", ".", *options],
        env={**os.environ, **environment, "BENCH_VARIANT": variant},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    if done.returncode:
        raise NotMeasured(f"expected migrate to succeed, it ended with {done.returncode}", done.stderr[-2000:])
