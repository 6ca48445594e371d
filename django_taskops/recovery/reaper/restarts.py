"""Whether the journal's Redis has been restarted: it may have lost what was not on its disk."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from django.utils import timezone

from ...journal.base import Source
from ...models import OutboxEntry, OutboxKind, OutboxStatus

KEY = f"{OutboxKind.LEASE}:redis"
TOLERANCE = timedelta(minutes=1)  # of a worker's clock, beside the time between the restart and its discovery


class Restarts:
    """Remembers in the database, so that a change of the process that looks on is none of Redis."""

    def __init__(self) -> None:
        self._run_id = ""
        self._since: datetime | None = None

    def look(self, sources: Iterable[Source]) -> None:
        for source in sources:
            run_id = source.run_id() if hasattr(source, "run_id") else ""
            if run_id and run_id != self._run_id:
                self._note(run_id)

    def happened_since(self, instant: datetime | None) -> bool:
        """True where it was found restarted after `instant`, as some host's clock has told it."""
        if self._since is None or instant is None:
            return False
        return _aware(instant) <= self._since + TOLERANCE

    def _note(self, run_id: str) -> None:
        entry, _created = OutboxEntry.objects.get_or_create(
            key=KEY, defaults={"kind": OutboxKind.LEASE, "status": OutboxStatus.DONE, "payload": {"run_id": run_id}}
        )
        if entry.payload.get("run_id") != run_id:
            entry.payload = {"run_id": run_id, "since": datetime.now(UTC).isoformat()}
            entry.save(update_fields=["payload"])
        since = entry.payload.get("since")
        self._run_id, self._since = run_id, _aware(datetime.fromisoformat(since)) if since else None


def _aware(instant: datetime) -> datetime:
    return timezone.make_aware(instant) if timezone.is_naive(instant) else instant
