"""Entries that can't be applied: kept byte for byte, so that nothing else waits for them, and to be tried again."""

from collections.abc import Iterable, Sequence

from ..events import Event
from ..journal.base import Entry
from ..journal.codec import decode
from ..models import QuarantinedEntry
from . import writer

ERROR_CHARS = 2000
POSITION_MARK = "@"


def put(source: str, entries: Iterable[tuple[Entry, Exception]]) -> int:
    """Keeps `entries`, each with what kept it from being applied. Returns how many there were."""
    rows = [
        QuarantinedEntry(
            source=source,
            key=f"{entry.key}{POSITION_MARK}{entry.position}"[-255:],
            data=entry.data,
            error=f"{type(error).__name__}: {repr(str(error))[1:-1]}"[:ERROR_CHARS],
            task_id=_task_id(entry),
        )
        for entry, error in entries
    ]
    QuarantinedEntry.objects.bulk_create(rows, ignore_conflicts=True)
    return len(rows)


def retry(pks: Sequence[int]) -> tuple[int, int]:
    """Applies the entries again, one by one, and deletes those that succeed. Returns how many did, and how many did
    not: these keep their newest error."""
    applied = 0
    rows = list(QuarantinedEntry.objects.filter(pk__in=pks).order_by("pk"))
    for row in rows:
        try:
            writer.apply([decode(bytes(row.data), _position(row.key))])
        except Exception as error:  # noqa: BLE001 whatever kept it here, or a database that is away
            row.error = f"{type(error).__name__}: {repr(str(error))[1:-1]}"[:ERROR_CHARS]
            row.save(update_fields=["error"])
        else:
            row.delete()
            applied += 1
    return applied, len(rows) - applied


def _position(key: str) -> int:
    position = key.rpartition(POSITION_MARK)[2]
    return int(position) if position.isdecimal() else 0


def _task_id(entry: Entry) -> str:
    """Of an entry that can be read so far, and whose id a column can hold; "" of any other."""
    try:
        record = decode(entry.data)
        task_id = record.task_id if isinstance(record, Event) else ""
        task_id.encode()
    except (ValueError, AttributeError):
        return ""
    return "" if "\x00" in task_id or len(task_id) > 255 else task_id
