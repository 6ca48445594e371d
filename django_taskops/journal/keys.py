"""The names of the journal in Redis. The part in braces keeps them together in a cluster."""

from typing import NamedTuple

from ..conf import conf

FIELD = b"e"  # of an entry: what `codec.encode` made


class Keys(NamedTuple):
    """`events` and `endings` are streams: what happens when all goes well, and bad endings."""

    events: str
    endings: str
    drops: str  # a hash: how many events there was no room for, by kind
    about: str  # a hash: `owner`, the id of the database that this journal belongs to, and `partitions`
    lease: str
    claims: str

    @classmethod
    def under(cls, prefix: str) -> "Keys":
        """`prefix` is the project's own for all its keys."""
        base = f"{prefix}{conf.JOURNAL_PREFIX}:{{0}}:"
        return cls(*(f"{base}{name}" for name in cls._fields))
