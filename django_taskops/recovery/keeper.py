"""Keeps a drain running on this host, from the worker's main process.

The drain is a process of its own, since a thread would take turns with Celery's main loop; and a fresh one, no fork, so
that it shares no socket and no lock with anybody. It runs where it is needed: where nobody holds the streams' lease,
or where this host's spool has something in it. Until then the keeper holds the place of the spool's collector, so that
publishers on this host know that what they put there will be fetched.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from celery._state import get_current_app
from django.conf import settings

from .. import journal
from ..journal import forks
from ..journal.base import Source
from ..projection.service import REFUSED, serve

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_AFTER_REFUSAL = 300.0
SECONDS_TO_STOP = 5.0
SHORT_LIFE_SECONDS = 10.0
MAX_SHORT_LIVES = 3

logger = logging.getLogger("django_taskops")


class Keeper:
    """A thread. `command` starts the drain; where there is none, or it does not live long, the thread drains."""

    def __init__(self, sources: Sequence[Source], command: Sequence[str]) -> None:
        self._sources = sources
        self._command = command
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._born = 0.0
        self._short_lives = 0
        self._not_before = 0.0
        self._thread = threading.Thread(target=self._run, name="taskops-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for the drain to put its work down, some seconds at most."""
        self._stopping.set()
        self._thread.join(2 * SECONDS_TO_STOP)

    def _run(self) -> None:
        try:
            with forks.kept_away():
                self._keep()
        except Exception:
            logger.exception("django-taskops: this worker keeps no drain running; what is in the journal waits")
        finally:
            self._release()
            self._end_child()

    def _keep(self) -> None:
        while True:
            if self._child is not None and self._child.poll() is not None:
                self._bury(self._child)
            if not self._command or self._short_lives >= MAX_SHORT_LIVES:
                serve(self._sources, self._stopping.is_set)
                return
            if self._child is None and time.monotonic() >= self._not_before and self._is_needed():
                self._release()
                self._born = time.monotonic()
                self._child = _start(self._command)
            with forks.let_through():
                if self._stopping.wait(SECONDS_BETWEEN_LOOKS):
                    return

    def _bury(self, child: "subprocess.Popen[bytes]") -> None:
        if child.returncode == REFUSED:
            self._not_before = time.monotonic() + SECONDS_AFTER_REFUSAL
        failed = child.returncode not in (0, REFUSED) and time.monotonic() - self._born < SHORT_LIFE_SECONDS
        self._short_lives = self._short_lives + 1 if failed else 0
        self._child = None

    def _is_needed(self) -> bool:
        waiting = [_is_needed(source) for source in self._sources]  # each is asked: that holds the spool's place
        return any(waiting)

    def _release(self) -> None:
        for source in self._sources:
            source.release()

    def _end_child(self) -> None:
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def start(**_signal: Any) -> None:
    if sources := journal.sources():
        keeper = Keeper(sources, _command())
        _keepers.append(keeper)
        keeper.start()


def stop(**_signal: Any) -> None:
    while _keepers:
        _keepers.pop().stop()


_keepers: list[Keeper] = []


def _is_needed(source: Source) -> bool:
    try:
        return source.is_waiting()
    except Exception as error:  # noqa: BLE001 it can't be reached, so that a drain could do nothing either
        logger.debug("django-taskops: %s: %r", source.name, error)
        return False


def _command() -> Sequence[str]:
    """Empty where a fresh process could not find the project's settings and its Celery app."""
    try:
        app = _path_of_app()
    except Exception:  # what lies among the modules may be anything
        logger.warning("django-taskops: the Celery app is not found, a thread drains", exc_info=True)
        return ()
    if not (app and sys.executable and os.environ.get("DJANGO_SETTINGS_MODULE") == settings.SETTINGS_MODULE):
        return ()
    return [sys.executable, "-m", "django", "taskops_drain", "--app", app, "--parent", str(os.getpid())]


def _path_of_app() -> str:
    """`module:name` of this worker's app, "" where it can't be imported from anywhere."""
    app = get_current_app()
    for module in [sys.modules.get(app.main or ""), *sys.modules.copy().values()]:
        if not isinstance(module, ModuleType) or module.__spec__ is None or module.__name__.startswith("celery."):
            continue  # Celery's own names for it are set when it is used
        for name, value in list(vars(module).items()):
            if value is app:
                return f"{module.__name__}:{name}"
    return ""


def _start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    """In a session of its own: Ctrl-C in a terminal is for the worker, which then ends it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
