"""What a drain says of itself: a row for each source, and a word in the outbox when events were lost or late."""

import os
import socket
import time
from collections.abc import Sequence

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from .. import journal
from ..conf import conf
from ..journal.base import Source
from ..journal.spool.folder import usage
from ..models import OutboxEntry, OutboxKind, Recorder
from .drain import Drained

SECONDS_BETWEEN_REPORTS = 5.0
LATE_SECONDS = 60.0
SECONDS_BETWEEN_WORDS = 3600  # about the same trouble
SPOOL = "spool"


class Reporter:
    """Called after each round of a drain; writes every five seconds."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = {source.name: source for source in sources}
        self._sums: dict[str, Drained] = {}
        self._due = time.monotonic()

    def __call__(self, done: Sequence[Drained]) -> None:
        """Raises what the database raises."""
        for drained in done:
            self._sums.setdefault(drained.source, Drained(drained.source)).add(drained)
        if self._sums and time.monotonic() >= self._due:
            self._due = time.monotonic() + SECONDS_BETWEEN_REPORTS
            for drained in self._sums.values():
                self._report(drained)
            self._sums.clear()

    def _report(self, done: Drained) -> None:
        files, size = _spool_usage() if done.source == SPOOL else (0, 0)
        counted = self._dropped(done.source)
        with transaction.atomic(using=conf.DATABASE):
            row, _created = Recorder.objects.get_or_create(name=name_of(done.source))
            counted = row.dropped_seen if counted is None else counted
            lost = counted - row.dropped_seen if counted >= row.dropped_seen else counted
            Recorder.objects.filter(pk=row.pk).update(
                holder=f"{socket.gethostname()} {os.getpid()}",
                applied=F("applied") + done.applied,
                quarantined=F("quarantined") + done.quarantined,
                dropped=F("dropped") + lost,
                dropped_seen=counted,
                lag_seconds=row.lag_seconds if done.lag_seconds is None else done.lag_seconds,
                spool_files=files,
                spool_bytes=size,
                seen_at=timezone.now(),
            )
            _tell_trouble(done, lost)

    def _dropped(self, source: str) -> int | None:
        """Since the journal began; None where it can't be asked now."""
        try:
            return self._sources[source].dropped()
        except Exception:  # noqa: BLE001 whatever the journal's driver raises
            return None


def name_of(source: str) -> str:
    """Of the row: the streams are everybody's, a spool is its host's."""
    return f"{source} {socket.gethostname()}" if source == SPOOL else source


def _spool_usage() -> tuple[int, int]:
    """Files and bytes of this host's spool."""
    try:
        return usage(journal.spool_path())
    except OSError:
        return 0, 0


def _tell_trouble(done: Drained, lost: int) -> None:
    if lost:
        _tell("dropped", f"{lost} events were dropped: the journal {done.source} had no room for them")
    if done.quarantined:
        _tell("quarantined", f"{done.quarantined} entries of the journal {done.source} could not be applied")
    if (done.lag_seconds or 0) > LATE_SECONDS:
        _tell("lag", f"events waited in the journal {done.source} for up to {done.lag_seconds:.0f} s")


def _tell(reason: str, detail: str) -> None:
    since = timezone.now()
    key = f"{OutboxKind.BLIND}:{reason}:{int(since.timestamp()) // SECONDS_BETWEEN_WORDS}"
    payload = {"reason": reason, "detail": detail, "since": since.isoformat()}
    OutboxEntry.objects.bulk_create(
        [OutboxEntry(kind=OutboxKind.BLIND, key=key, payload=payload)], ignore_conflicts=True
    )
