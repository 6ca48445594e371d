"""A drain that forks in the middle of its transaction; the child lives on: python -m tests.faults.forking_drain

Where a worker's children do not die with their parent, or a project's code forks beside the drain's thread.
"""

import os
import signal
import sys
from typing import Any

import django


def main() -> None:
    django.setup()
    from django_taskops import journal
    from django_taskops.projection import writer
    from django_taskops.projection.service import serve

    patched: Any = writer
    apply = writer._apply

    def fork_within(*given: Any) -> None:
        apply(*given)
        child = os.fork()
        if child:
            os.write(sys.stdout.fileno(), f"{child}\n".encode())
        signal.pause()

    patched._apply = fork_within
    serve(journal.sources(), lambda: False)


if __name__ == "__main__":
    main()
