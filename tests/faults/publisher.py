"""Programs that publish and end: python -m tests.faults.publisher <how>. Each prints, for every process of its, what it
has published and from which port it speaks to the Redis of the journal.

once            a management command that exits at once
sys.exit        a server that has published before it forks its workers (gunicorn --preload), which publish and end
os._exit        the same, with workers that end without any of Python's goodbyes
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import django

CHILDREN = 4
EACH = 25


def main(how: str) -> None:
    django.setup()
    publish()
    if how == "once":
        return
    children = [_fork(how) for _ in range(CHILDREN)]
    publish()
    statuses = [os.waitpid(child, 0)[1] for child in children]
    publish()
    assert not any(statuses), statuses


def _fork(how: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    publish()
    if how == "os._exit":
        os._exit(0)
    sys.exit(0)


def publish() -> None:
    from tests.celery_app import app
    from tests.tasks import add

    assert app is add.app
    published = [add.delay(number, number).id for number in range(EACH)]
    line = json.dumps({"pid": os.getpid(), "published": published, "ports": ports()})
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def ports() -> Sequence[int]:
    """Of this process's end of the journal's connection, where there is one by now."""
    from django_taskops import journal

    wire: Any = getattr(journal.current(), "_wire", None)
    connection: Any = getattr(wire, "_connection", None)
    return [connection._sock.getsockname()[1]] if connection is not None and connection._sock else []


if __name__ == "__main__":
    main(sys.argv[1])
