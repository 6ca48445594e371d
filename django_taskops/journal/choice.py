"""Which journal the settings name. "auto": Redis where the broker or else the result backend is one, the spool beside
every other broker, direct beside the memory broker."""

from collections.abc import Callable, Sequence
from pathlib import Path

from celery import current_app
from django.core.exceptions import ImproperlyConfigured

from ..conf import JOURNALS, conf
from . import client
from .base import Journal, Source
from .redis import RedisJournal
from .spool import SpoolJournal
from .spool.folder import folder_of
from .spool.source import SpoolSource
from .stream import RedisSource

MEMORY = "memory"


class SettingsChoice:
    """`identity` names the database without asking it. `owner` is the id that the database keeps of itself; it is
    given one where `create=True`, else it is "" while it has none."""

    def __init__(self, direct: Journal, identity: Callable[[], str], owner: Callable[..., str]) -> None:
        self._direct = direct
        self._spool = SpoolJournal(direct, identity)
        self._identity = identity
        self._owner = owner
        self._chosen: dict[tuple[str, str], Journal] = {}
        self._current: tuple[object, Journal] | None = None  # for the very dict of settings that it was chosen by

    def current(self) -> Journal:
        """Asked several times for each task."""
        given = conf.given()
        if self._current is None or self._current[0] is not given:
            key = (conf.JOURNAL, conf.JOURNAL_PREFIX)
            self._current = given, self._chosen.get(key) or self._chosen.setdefault(key, self._choose())
        return self._current[1]

    def immediate(self) -> Journal:
        return self._direct

    def kind(self) -> str:
        if conf.JOURNAL == "direct":
            return "direct"
        if _address() is not None:
            return "redis"
        return "direct" if conf.JOURNAL == "auto" and _has_memory_broker() else "spool"

    def address(self) -> str:
        found = _address()
        if found is not None:
            return found.shown
        return str(self.spool_path()) if self.kind() == "spool" else ""

    def sources(self, *, adopt: bool) -> Sequence[Source]:
        if self.kind() == "direct":
            return ()
        spool = SpoolSource(self.spool_path)
        found = _address()
        return (spool,) if found is None else (RedisSource(found, self._owner, adopt=adopt), spool)

    def spool_path(self) -> Path:
        return folder_of(self._identity())

    def expect_collector(self) -> None:
        self._spool.expect_collector()

    def flush(self) -> None:
        for journal in self._chosen.values():
            journal.flush()
        if not self._chosen:
            self._direct.flush()

    def _choose(self) -> Journal:
        found = _address()
        if found is not None:
            return RedisJournal(found, self._spool)
        return self._spool if self.kind() == "spool" else self._direct


def _address() -> client.Address | None:
    """The Redis of the journal; None where it is none. Raises ImproperlyConfigured where it has to be one."""
    wanted = conf.JOURNAL
    if wanted in ("direct", "spool"):
        return None
    if wanted not in JOURNALS:
        return client.of_url(wanted)
    found = None if wanted == "auto" and _has_memory_broker() else client.of_app(current_app)
    if found is None and wanted == "redis":
        raise ImproperlyConfigured(
            "TASKOPS['JOURNAL']: expected a broker or a result backend in Redis, got neither; name the URL of a Redis."
        )
    return found


def _has_memory_broker() -> bool:
    with current_app.connection_for_write() as connection:
        return bool(connection.transport_cls == MEMORY)
