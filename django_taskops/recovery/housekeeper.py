"""What has to be done again and again beside the tasks: by one worker at a time, in a thread of its main process.

Each chore does a little at each pass. One that fails is logged, and the others go on.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from django.db import InterfaceError, OperationalError, connections

from ..capture.pulse import seconds_between_beats
from ..capture.worker import boot_id
from ..conf import conf
from ..journal import forks
from ..projection.connection import own_connection
from . import bulk, retention
from .interrupted import finish_interrupted
from .joins import Joins
from .lease import Lease
from .outbox import carry_out
from .reaper import Reaper

LONGEST_PASS_SECONDS = 2.0
LONGEST_LEASE_SECONDS = 30.0
SECONDS_BETWEEN_LOGS = 60.0
SECONDS_TO_STOP = 2.0
LEASE = "housekeeping"

logger = logging.getLogger("django_taskops")


class Housekeeper:
    """A thread, on a database connection of its own: the pool's children must not find it."""

    def __init__(self, chores: Sequence[Callable[[], object]]) -> None:
        self._chores = chores
        self._lease = Lease(LEASE, lease_seconds())
        self._stopping = threading.Event()
        self._logged: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="taskops-housekeeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(SECONDS_TO_STOP)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with forks.kept_away(), own_connection():
                    self._keep_house()
            except Exception as error:  # noqa: BLE001 the database may be away; the next pass tries again
                self._log("the housekeeper waits", error)
                self._stopping.wait(_seconds_between_passes())

    def _keep_house(self) -> None:
        try:
            while not self._stops():
                if self._lease.hold():
                    self._pass()
                else:
                    connections[conf.DATABASE].close()  # it stands by, maybe for ever
        finally:
            self._lease.release()

    def _stops(self) -> bool:
        with forks.let_through():
            return self._stopping.wait(_seconds_between_passes())

    def _pass(self) -> None:
        for chore in self._chores:
            try:
                chore()
            except (OperationalError, InterfaceError):
                raise
            except Exception as error:  # noqa: BLE001 a broker, or the project's own code
                self._log(f"{getattr(chore, '__qualname__', chore)} failed", error)

    def _log(self, message: str, error: Exception) -> None:
        now = time.monotonic()
        if now - self._logged.get(message, -SECONDS_BETWEEN_LOGS) >= SECONDS_BETWEEN_LOGS:
            self._logged[message] = now
            logger.warning("django-taskops: %s", message, exc_info=error)


def lease_seconds() -> float:
    return min(LONGEST_LEASE_SECONDS, conf.WORKER_TIMEOUT / 2)


def start(**_signal: Any) -> None:
    """When a worker is ready."""
    housekeeper = Housekeeper(
        [Joins(), carry_out, finish_interrupted, bulk.work_off, Reaper(boot_id()), retention.chore]
    )
    _housekeepers.append(housekeeper)
    housekeeper.start()


def stop(**_signal: Any) -> None:
    while _housekeepers:
        _housekeepers.pop().stop()


_housekeepers: list[Housekeeper] = []


def _seconds_between_passes() -> float:
    return min(LONGEST_PASS_SECONDS, seconds_between_beats() / 2)
