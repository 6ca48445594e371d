"""Runs `taskops_requeue` once for each given death, in a process that is killed at that point of its work: the Nth time
that it gets there. Prints how each has ended, as JSON."""

import json
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

import django

django.setup()

from django.core.management import call_command  # noqa: E402

import tests.celery_app  # noqa: E402, F401  makes it the current app
from django_taskops.recovery import intents, pollers, sending  # noqa: E402
from django_taskops.recovery.broker import Publisher  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

POINTS: dict[str, tuple[Any, str]] = {
    "commit": (intents, "commit"),
    "take": (intents, "_take"),
    "hold": (pollers, "hold"),
    "publish": (Publisher, "publish"),
    "supersede": (sending, "supersede"),
    "confirm": (intents, "confirm"),
    "settle": (intents, "settle"),
}


def die_at(point: str, times: int, *, after: bool) -> None:
    """Before the call numbered `times` of that function, or after it."""
    home, name = POINTS[point]
    original: Callable[..., Any] = getattr(home, name)
    calls = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == times and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(home, name, counting)


def run(death: list[str], arguments: list[str]) -> int:
    """In a fork, which inherits no connection: none has been made here."""
    pid = os.fork()
    if pid == 0:
        point, times, when = death
        if point != "never":
            die_at(point, int(times), after=when == "after")
        try:
            call_command("taskops_requeue", *arguments)
        except SystemExit as end:
            os._exit(int(end.code or 0))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps([run(death, sys.argv[2:]) for death in json.loads(sys.argv[1])]) + "\n")
