"""Starts a private MariaDB, where nobody runs a MySQL or MariaDB as a service.

It is reachable through a socket in a folder that is closed to others, and gone when the block ends, also when this
process is killed (on Linux). It keeps nothing: only its log stays behind, in the folder given.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from .embedded import UNPRIVILEGED, ServiceUnavailable, _Server

SCHEMES = {"mysql", "mariadb"}
PROGRAMS = ("mariadbd", "/usr/sbin/mariadbd")
CLIENTS = ("mariadb-admin", "mysqladmin")
OPTIONS = {
    "skip-networking": "",
    # Only who may enter the folder of the socket gets here. So it needs no tables of its own, and starts at once.
    "skip-grant-tables": "",
    # Nothing here has to survive a power cut.
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-flush-method": "nosync",
    "innodb-doublewrite": "0",
    "innodb-fast-shutdown": "2",
    "innodb-buffer-pool-size": "64M",
    "innodb-log-file-size": "16M",
    "innodb-data-file-path": "ibdata1:1M:autoextend",
    "innodb-temp-data-file-path": "ibtmp1:1M:autoextend",
    "performance-schema": "0",
}


@contextmanager
def mariadb_server(folder: Path) -> Iterator[str]:
    """Yields the mysql:// URL of `MYSQL_URL`, else of a server of our own, on a unix socket.

    `mysql_settings` turns it into an entry of Django's DATABASES. Raises ServiceUnavailable where MariaDB is not
    installed or does not start.
    """
    if given := os.environ.get("MYSQL_URL"):
        yield given
        return
    with _own_mariadb(folder) as url:
        yield url


def mysql_settings(url: str) -> dict[str, Any]:
    """The entry of Django's DATABASES for a mysql:// URL; its query is for the driver, `unix_socket` say."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.mysql",
        "NAME": parts.path.removeprefix("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("unix_socket", "") or parts.hostname or "",
        "PORT": str(parts.port or ""),
        "OPTIONS": options,
    }


def mysql_database(url: str, name: str) -> str:
    """The same server's URL for another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@contextmanager
def _own_mariadb(folder: Path) -> Iterator[str]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    client = next(filter(None, map(shutil.which, CLIENTS)), None)
    if program is None or client is None:
        raise ServiceUnavailable(
            "Expected MYSQL_URL, or mariadbd and mariadb-admin on PATH; at least one of the two programs is missing. "
            "Install MariaDB's server, or set MYSQL_URL."
        )
    owner = UNPRIVILEGED if os.geteuid() == 0 else None  # MariaDB refuses to run as root
    # Not in the folder given: the path of a unix socket may have 107 characters, and its owner must reach it.
    home = Path(tempfile.mkdtemp(prefix="mariadb-"))
    try:
        (home / "data").mkdir()
        if owner:
            shutil.chown(home, owner)
            shutil.chown(home / "data", owner)
        with _running(program, client, home, owner, folder / "mariadb.log") as url:
            yield url
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _running(program: str, client: str, home: Path, owner: str | None, log: Path) -> Iterator[str]:
    socket = home / "socket"
    options = {"datadir": home / "data", "tmpdir": home, "socket": socket, "pid-file": home / "pid", **OPTIONS}
    command = [program, "--no-defaults"]  # which leaves nothing to the machine's own configuration
    command += [f"--{name}={value}" if value else f"--{name}" for name, value in options.items()]
    server = _Server.start("MariaDB", command, log, owner=owner)
    try:
        server.wait_until(partial(_answers, client, socket))
        yield f"mysql://root@localhost/taskops?{urlencode({'unix_socket': socket}, safe='/')}"
    finally:
        server.stop()


def _answers(client: str, socket: Path) -> bool:
    """Asked by MariaDB's own client: which driver is here is for the project to say."""
    if not socket.exists():
        return False
    ping = [client, "--no-defaults", f"--socket={socket}", "--user=root", "ping"]
    return subprocess.run(ping, capture_output=True, check=False).returncode == 0  # noqa: S603
