"""Takes events from the journal and applies them: read, write, acknowledge, in this order.

What is applied twice changes nothing, so that a drain may die anywhere. An entry that can't be applied is found by
halving its batch, and goes to the quarantine; only a database that is away, not migrated, read-only or full makes
everything wait.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from django.db import DatabaseError, InterfaceError, connections

from ..conf import conf
from ..events import Record
from ..journal import forks
from ..journal.base import Entry, Source, is_full
from ..journal.codec import UnreadableEvent, decode
from ..models import Chord, DeadLetter, OutboxEntry, QuarantinedEntry, RunEnvelope, TaskAttempt, TaskRun, WorkerBeat
from . import quarantine, writer
from .limits import is_contention, is_unwritable

BATCH = 2000
READ_SECONDS = 1.0
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 5.0
LAST_SECONDS = 3.0
SECONDS_AWAY = 10.0
SECONDS_BETWEEN_BATCHES = 0.2
SECONDS_BETWEEN_BATCHES_OF_SQLITE = 1.0
PATIENCE = 20  # tries of a batch that meets locks, until one of its entries is held to be the cause
SECONDS_BETWEEN_LOGS = 60.0

logger = logging.getLogger("django_taskops")

_Read: TypeAlias = tuple[Entry, Record]
_TABLES = (TaskRun, TaskAttempt, DeadLetter, OutboxEntry, RunEnvelope, QuarantinedEntry, WorkerBeat, Chord)


@dataclass(slots=True)
class Drained:
    """What has been drained of one source; with `source` "" of several. `full` says that there is more. `lag_seconds`
    is the age of the oldest event applied, None where nothing was."""

    source: str = ""
    applied: int = 0
    quarantined: int = 0
    full: bool = False
    lag_seconds: float | None = None

    def add(self, other: "Drained") -> None:
        self.applied += other.applied
        self.quarantined += other.quarantined
        self.full = self.full or other.full
        lags = [lag for lag in (self.lag_seconds, other.lag_seconds) if lag is not None]
        self.lag_seconds = max(lags, default=None)


class Away(Exception):
    """The database can't be reached, has not our tables yet, or takes no writes."""


class Drain:
    """Serves `sources`, each while it is this process's turn. For one thread, inside `own_connection()`."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._tries = 0
        self._some_applied = False
        self._away_until: dict[str, float] = {}  # sources that could not be reached, so that the others need not wait
        self._logged: dict[str, float] = {}

    def run(self, until: Callable[[], bool], told: Callable[[Sequence[Drained]], None]) -> None:
        """Goes on until `until()`. After each round `told` is given what was done, by source; nothing where it was
        no source's turn."""
        wait = FIRST_WAIT_SECONDS
        try:
            while not until():
                try:
                    drained = self.round()
                    self._tell(told, drained)
                except (Away, DatabaseError, InterfaceError) as error:
                    self._log("database", f"the drain waits for the database: {error!r}")
                    _forget_connection()
                    _pause(wait, until)
                    wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                else:
                    wait = FIRST_WAIT_SECONDS
                    _pause(0 if any(each.full for each in drained) else _seconds_between_batches(), until)
            self._finish(told)
        finally:
            self.release()

    def _finish(self, told: Callable[[Sequence[Drained]], None]) -> None:
        """What its worker has just put into the journal need not wait for the next one."""
        deadline = time.monotonic() + LAST_SECONDS
        while time.monotonic() < deadline:
            try:
                drained = self.round(wait=0)
                self._tell(told, drained)
            except (Away, DatabaseError, InterfaceError):
                return
            if not any(each.applied for each in drained):
                return

    def release(self) -> None:
        for source in self._sources:
            source.release()

    def round(self, limit: int = BATCH, wait: float = READ_SECONDS) -> list[Drained]:
        """One batch of each source whose turn it is; waits up to `wait` seconds for the first of them.

        Raises Away, or what the database raises. A journal that can't be reached keeps nobody from the others.
        """
        done: list[Drained] = []
        for source in self._sources:
            if time.monotonic() < self._away_until.get(source.name, 0):
                continue
            try:
                held = source.hold()
                entries = source.read(limit, 0 if done else wait) if held else ()
            except (DatabaseError, InterfaceError):
                raise  # of the question whose journal it is
            except Exception as error:  # noqa: BLE001 whatever the journal's driver raises
                self._log(source.name, f"the journal {source.name} can't be read: {error!r}")
                self._away_until[source.name] = time.monotonic() + SECONDS_AWAY
                continue
            if held:
                done.append(self._apply(source, entries, limit))
        return done

    def _apply(self, source: Source, entries: Sequence[Entry], limit: int) -> Drained:
        drained = Drained(source=source.name, full=len(entries) >= limit or is_full(entries))
        if not entries:
            return drained
        good, bad = _read(entries)
        self._some_applied = False
        bad += self._write(good)
        if bad:
            drained.quarantined = quarantine.put(source.name, bad)
            self._log("quarantine", f"{len(bad)} entries of {source.name} are quarantined, the first: {bad[0][1]!r}")
        self._acknowledge(source, entries)
        self._tries = 0
        drained.applied = len(entries) - len(bad)
        drained.lag_seconds = _age(good)
        return drained

    def _acknowledge(self, source: Source, entries: Sequence[Entry]) -> None:
        try:
            source.acknowledge(entries)
        except Exception as error:  # noqa: BLE001 they come again, and change nothing then
            self._log(source.name, f"the journal {source.name} can't be acknowledged: {error!r}")

    def _write(self, batch: Sequence[_Read]) -> list[tuple[Entry, Exception]]:
        """Applies what can be applied, and returns the rest."""
        connected = connections[conf.DATABASE].connection
        try:
            writer.apply([event for _entry, event in batch], background=True)
            self._some_applied = True
        except Exception as error:
            _require_database(connected, error)
            if is_contention(error) and self._tries < PATIENCE:
                self._tries += 1
                raise
            if len(batch) == 1:
                if is_contention(error) and not self._some_applied:
                    raise  # it may be all of the table that is locked
                return [(batch[0][0], error)]
            middle = len(batch) // 2
            return self._write(batch[:middle]) + self._write(batch[middle:])
        return []

    def _tell(self, told: Callable[[Sequence[Drained]], None], drained: Sequence[Drained]) -> None:
        """What is said of the work must not stop it."""
        try:
            told(drained)
        except (DatabaseError, InterfaceError):
            raise
        except Exception as error:  # noqa: BLE001
            self._log("report", f"the drain can't report: {error!r}")

    def _log(self, about: str, message: str) -> None:
        now = time.monotonic()
        if now - self._logged.get(about, -SECONDS_BETWEEN_LOGS) >= SECONDS_BETWEEN_LOGS:
            self._logged[about] = now
            logger.warning("django-taskops: %s", message)


def _read(entries: Sequence[Entry]) -> tuple[list[_Read], list[tuple[Entry, Exception]]]:
    good: list[_Read] = []
    bad: list[tuple[Entry, Exception]] = []
    for entry in entries:
        try:
            good.append((entry, decode(entry.data, entry.position)))
        except UnreadableEvent as error:
            bad.append((entry, error))
    return good, bad


def _require_database(connected: object, error: Exception) -> None:
    """Raises Away where the database is to blame, and not what was written to it over the connection `connected`."""
    if is_unwritable(error):
        raise Away(f"it takes no writes: {error!r}") from error
    connection = connections[conf.DATABASE]
    try:
        replaced = connected is not None and connection.connection is not connected  # `atomic` itself does that
        if replaced or not connection.is_usable():
            connection.close()
            raise Away(f"the connection has broken: {error!r}") from error
        for model in _TABLES:
            model.objects.order_by().first()
    except (DatabaseError, InterfaceError) as away:
        raise Away(f"{away!r} after {error!r}") from error


def _forget_connection() -> None:
    try:
        connections[conf.DATABASE].close()
    except (DatabaseError, InterfaceError):
        return


def _age(good: Sequence[_Read]) -> float | None:
    """In seconds: how long the oldest of these events has waited."""
    oldest = min((event.at for _entry, event in good), default=None)
    return None if oldest is None else (datetime.now(UTC) - oldest).total_seconds()


def _seconds_between_batches() -> float:
    """One background commit a second is what a SQLite bears that the project writes to as well."""
    shared = connections[conf.DATABASE].vendor == "sqlite" and conf.DATABASE == "default"
    return SECONDS_BETWEEN_BATCHES_OF_SQLITE if shared else SECONDS_BETWEEN_BATCHES


def _pause(seconds: float, until: Callable[[], bool]) -> None:
    over = time.monotonic() + seconds
    while (left := over - time.monotonic()) > 0 and not until():
        with forks.let_through():
            time.sleep(min(left, FIRST_WAIT_SECONDS))
