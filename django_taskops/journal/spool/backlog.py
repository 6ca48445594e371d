"""What waits in a folder of the spool, for people to see: reads only."""

from datetime import UTC, datetime
from heapq import nlargest
from operator import attrgetter
from pathlib import Path

from ...conf import conf
from ..base import Backlog, Entry
from .collector import holder
from .folder import dropped, segments
from .segment_files import WrittenSegment
from .segments import ForeignFile, Header, Piece

NEWEST = 10


def entry_of(path: Path, piece: Piece) -> Entry:
    return Entry(f"{path.name}:{piece.start}", piece.data, piece.position)


def instant_of(position: int) -> datetime:
    return datetime.fromtimestamp((position >> 20) / 1000, UTC)


def backlog_of(folder: Path) -> Backlog:
    """Reads all that waits once. Broken pieces count as entries. Raises OSError for a folder that can't be read."""
    try:
        sizes = segments(folder)
    except FileNotFoundError:
        return Backlog(limit=conf.SPOOL_MAX_BYTES)
    gone, counted = dropped(folder)
    entries, size = 0, 0
    oldest: int | None = None
    newest: list[Entry] = []
    for name in sizes:
        header, waiting = _waiting(folder / name)
        if name != counted:  # else its reader has died before it could delete it
            gone += header.dropped
        entries += len(waiting)
        size += sum(piece.end - piece.start for piece in waiting)
        positions = [piece.position for piece in waiting]
        oldest = min(positions if oldest is None else [oldest, *positions], default=oldest)
        newest = nlargest(NEWEST, [*newest, *(entry_of(folder / name, piece) for piece in waiting)], _position)
    return Backlog(
        entries=entries,
        size=size,
        limit=conf.SPOOL_MAX_BYTES,
        oldest_at=None if oldest is None else instant_of(oldest),
        newest=newest,
        dropped={"event": gone} if gone else {},
        holder=holder(folder),
    )


def oldest_in(folder: Path) -> datetime | None:
    """When what has waited longest was written; None where nothing waits. Looks at one entry of each file."""
    try:
        names = segments(folder)
    except FileNotFoundError:
        return None
    oldest = min((first for name in names if (first := _first(folder / name)) is not None), default=None)
    return None if oldest is None else instant_of(oldest)


def _first(path: Path) -> int | None:
    """The position of the first entry that has not been applied."""
    try:
        with WrittenSegment(path, read_only=True) as segment:
            if (header := segment.header()) is not None:
                pieces = segment.pieces(header.consumed, final=segment.is_final())
                return next((piece.position for piece in pieces), None)
    except (OSError, ForeignFile):
        pass
    return None


def dropped_in(folder: Path) -> int:
    """The same count as in the backlog, from the headers alone."""
    gone, counted = dropped(folder)
    return gone + sum(_header(folder / name).dropped for name in segments(folder) if name != counted)


_position = attrgetter("position")


def _header(path: Path) -> Header:
    try:
        with WrittenSegment(path, read_only=True) as segment:
            return segment.header() or Header(0, 0)
    except (OSError, ForeignFile):
        return Header(0, 0)


def _waiting(path: Path) -> tuple[Header, list[Piece]]:
    """Nothing for a file that is not ours to read, or has been deleted meanwhile."""
    try:
        with WrittenSegment(path, read_only=True) as segment:
            if (header := segment.header()) is not None:
                return header, list(segment.pieces(header.consumed, final=segment.is_final()))
    except (OSError, ForeignFile):
        pass
    return Header(0, 0), []
