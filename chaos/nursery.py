"""`python -m chaos.nursery`: has imported everything, and forks a worker for each line of JSON on its standard input.

A worker that starts by itself spends two seconds of the processor on imports, which a minute of killing has not got.
Nothing is connected and no thread runs here, so that the children begin as they would. Answers with the child's pid.
"""

import faulthandler
import gc
import importlib
import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from chaos import ledger
from chaos.ledger import Line, What
from example_site.embedded import die_with_parent

MODULES = (
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "celery.worker.components",
    "celery.worker.consumer",
    "django.db.backends.postgresql.base",
    "kombu.transport.redis",
)


def main() -> None:
    """Until its input ends; then its workers are killed by the kernel."""
    _prepare()
    signal.signal(signal.SIGCHLD, _reap)
    for order in sys.stdin:
        told = json.loads(order)
        pid = os.fork()
        if not pid:
            _work(told)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _prepare() -> None:
    import django

    app = importlib.import_module("chaos.app").app
    django.setup()
    for name in MODULES:
        importlib.import_module(name)
    app.loader.import_default_modules()
    gc.freeze()


def _reap(_number: int, _frame: FrameType | None) -> None:
    try:
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            pid, status = ended
            ledger.append(Line(what=What.GONE, detail={"main": pid, "code": os.waitstatus_to_exitcode(status)}))
    except ChildProcessError:  # none is left
        return


def _work(told: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        die_with_parent(signal.SIGKILL)()
        _redirect(Path(told["log"]))
        faulthandler.register(signal.SIGUSR2)  # says where all its threads stand
        os.environ |= told["environment"]
        random.seed()
        sys.argv = ["celery", *told["arguments"]]
        importlib.import_module("chaos.app").app.worker_main(told["arguments"])
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    """As an interpreter of its own would: what is registered for the exit runs."""
    import atexit

    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def _redirect(log: Path) -> None:
    with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


if __name__ == "__main__":
    main()
