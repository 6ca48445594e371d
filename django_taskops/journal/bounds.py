"""What a full journal drops first, and what it keeps to the last."""

from ..events import EventKind, Record

ENDINGS = frozenset(
    (
        EventKind.END_LOST,
        EventKind.UNDELIVERED,
        EventKind.BROKE,
        EventKind.WORKER_LOST,
        EventKind.FAILED,
        EventKind.TIMED_OUT,
        EventKind.CANCELLED,
        EventKind.REJECTED,
        EventKind.REVOKED,
        EventKind.UNSERIALIZABLE,
        EventKind.UNKNOWN_TASK,
        EventKind.UNDECODABLE,
    )
)


def is_bad_ending(record: Record) -> bool:
    """True for what somebody may have to act on: never dropped for want of room while there is any other way."""
    return record.kind in ENDINGS
