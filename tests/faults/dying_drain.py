"""A drain that is killed when it has applied a batch and not yet acknowledged it: python -m tests.faults.dying_drain"""

import os
import signal
from typing import Any, NoReturn

import django


def main() -> None:
    django.setup()
    from django_taskops import journal
    from django_taskops.projection.service import serve

    sources: Any = journal.sources()
    for source in sources:
        source.acknowledge = _die
    serve(sources, lambda: False)


def _die(_entries: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("expected to be dead")


if __name__ == "__main__":
    main()
