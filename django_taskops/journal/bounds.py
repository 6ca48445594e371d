"""What a full journal drops first, and what it keeps to the last."""

from ..events import Event, EventKind

ENDINGS = frozenset(
    (
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


def is_bad_ending(event: Event) -> bool:
    """True for what somebody may have to act on: never dropped for want of room while there is any other way."""
    return event.kind in ENDINGS
