"""A database in the PostgreSQL server that the tests here stop and start, and this process's way to it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import connections
from django.db.utils import DEFAULT_DB_ALIAS, load_backend

from example_site.embedded import postgres_settings
from tests.faults.processes import ROOT
from tests.servers import PostgresServer


@dataclass(frozen=True, slots=True)
class OwnDatabase:
    server: PostgresServer
    url: str

    def migrate(self, *names: str) -> None:
        command = [sys.executable, "-m", "django", "migrate", "--settings", "tests.settings", "--verbosity", "0"]
        given = os.environ | {"DATABASE_URL": self.url, "PYTHONPATH": str(ROOT)}
        subprocess.run([*command, *names], env=given, check=True, cwd=ROOT, timeout=60)


@contextmanager
def default_database(url: str) -> Iterator[None]:
    """In this thread, the default database is that one."""
    usual = connections[DEFAULT_DB_ALIAS]
    settings = usual.settings_dict | postgres_settings(url)
    own = load_backend(settings["ENGINE"]).DatabaseWrapper(settings, DEFAULT_DB_ALIAS)
    connections[DEFAULT_DB_ALIAS] = own
    try:
        yield
    finally:
        own.close()
        connections[DEFAULT_DB_ALIAS] = usual
