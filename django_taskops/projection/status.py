"""How the recorder is doing, as its sources and its tables tell. Reads only, and raises for nothing that is down."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import Error, connections, transaction
from django.db.models import QuerySet
from django.utils import timezone

from .. import journal
from ..conf import conf
from ..journal.base import Backlog, Source
from ..models import OutboxEntry, OutboxKind, QuarantinedEntry, Recorder
from .blindness import BLIND_SECONDS, Blindness

DROPS_SHOWN = timedelta(hours=24)
CAP = 10_000
MAX_RECORDERS = 50
MAX_ERROR_CHARS = 300
FRESH_SECONDS = 2.0
SECONDS_AFTER_ERROR = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A number of rows; `capped` where there are more, which nobody counts."""

    number: int = 0
    capped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """`backlog` is None where the source can't be reached, and `error` says why. `lag_seconds` is None where nothing
    waits. `name` is "" where the settings name no journal that can be used."""

    name: str
    backlog: Backlog | None = None
    error: str = ""
    lag_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`journal` is "redis", "spool" or "direct", "" for one that can't be used; `address` has no password."""

    at: datetime
    journal: str
    address: str
    sources: Sequence[SourceStatus] = ()
    recorders: Sequence[Recorder] = ()
    quarantined: Counted = field(default_factory=Counted)
    blind: Sequence[Blindness] = ()


def read_status() -> Status:
    """Asks every source and the tables; a source that failed within the last five seconds is not asked again."""
    kind, address, sources = _journal()
    blind = [reason for source in sources for reason in _blindness(source)]
    recorders: Sequence[Recorder] = ()
    quarantined = Counted()
    try:
        with _savepoint():
            recorders = list(Recorder.objects.order_by("name")[:MAX_RECORDERS])
            quarantined = counted(QuarantinedEntry.objects.all())
            blind += [Blindness(code="dropped")] if _has_dropped() else []
    except Error:
        blind.insert(0, Blindness(code="not_migrated" if _tables_are_missing() else "database"))
    status = Status(
        at=timezone.now(),
        journal=kind,
        address=address,
        sources=sources,
        recorders=recorders,
        quarantined=quarantined,
        blind=blind,
    )
    _recent[conf.DATABASE] = (time.monotonic() + FRESH_SECONDS, status)
    return status


def recent_status() -> Status:
    """The same, at most two seconds old: for what every page shows."""
    until, status = _recent.get(conf.DATABASE, (0.0, None))
    return read_status() if status is None or time.monotonic() >= until else status


def forget() -> None:
    """Lets the next one to ask see everything afresh."""
    _recent.clear()
    _failed.clear()


def counted(rows: QuerySet[Any]) -> Counted:
    """Counts up to CAP."""
    number = rows.order_by().values("pk")[: CAP + 1].count()
    return Counted(number=min(number, CAP), capped=number > CAP)


_recent: dict[str, tuple[float, Status]] = {}
_failed: dict[str, tuple[float, SourceStatus]] = {}


def _journal() -> tuple[str, str, Sequence[SourceStatus]]:
    try:
        kind, address, sources = journal.kind(), journal.address(), journal.sources()
    except Exception as error:  # noqa: BLE001 each library has its own for an address that it can't use
        return "", "", [SourceStatus(name="", error=_told(error))]
    return kind, address, [_ask(source) for source in sources]


def _ask(source: Source) -> SourceStatus:
    until, failed = _failed.get(source.name, (0.0, None))
    if failed is not None and time.monotonic() < until:
        return failed
    try:
        backlog = source.backlog()
    except Exception as error:  # noqa: BLE001 a client library may raise anything; people are told
        failed = SourceStatus(name=source.name, error=_told(error))
        _failed[source.name] = (time.monotonic() + SECONDS_AFTER_ERROR, failed)
        return failed
    _failed.pop(source.name, None)
    return SourceStatus(name=source.name, backlog=backlog, lag_seconds=_lag(backlog))


def _told(error: Exception) -> str:
    """Without what stands before the @ of an address."""
    return re.sub(r"//[^/\s]*@", "//", f"{type(error).__name__}: {error}")[:MAX_ERROR_CHARS]


def _lag(backlog: Backlog) -> float | None:
    """Clocks of two hosts may contradict each other by a little."""
    if backlog.oldest_at is None:
        return None
    return max(0.0, (timezone.now() - backlog.oldest_at).total_seconds())


def _blindness(source: SourceStatus) -> Iterator[Blindness]:
    backlog = source.backlog
    if backlog is None:
        yield Blindness(code="unreachable" if source.name else "unusable", source=source.name)
    elif backlog.refused:
        yield Blindness(code="refused", source=source.name)
    elif backlog.entries and source.lag_seconds is not None and source.lag_seconds > BLIND_SECONDS:
        code = "lags" if backlog.holder else "nobody_drains"
        yield Blindness(code=code, source=source.name, count=backlog.entries, holder=backlog.holder)


def _has_dropped() -> bool:
    """As the drain has told the outbox: the totals never go down, so that they say nothing of when."""
    told = OutboxEntry.objects.filter(kind=OutboxKind.BLIND, payload__reason="dropped")
    return bool(told.filter(created_at__gte=timezone.now() - DROPS_SHOWN).exists())


def _savepoint() -> AbstractContextManager[Any]:
    """An error must not poison a transaction that is open. None is opened here: SQLite's would take the write lock."""
    connection = connections[conf.DATABASE]
    return transaction.atomic(using=conf.DATABASE) if connection.in_atomic_block else nullcontext()


def _tables_are_missing() -> bool:
    try:
        tables = connections[conf.DATABASE].introspection.table_names()
    except Error:
        return False
    return not {Recorder._meta.db_table, QuarantinedEntry._meta.db_table} <= set(tables)  # noqa: SLF001
