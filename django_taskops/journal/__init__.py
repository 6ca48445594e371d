"""Keeps events safe until they are applied. One journal serves the whole process, the one that `JOURNAL` names."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from .base import Journal, Source
from .spool.backlog import oldest_in


class Choice(Protocol):
    """What the settings come to. Handed over when Django starts the app."""

    def current(self) -> Journal: ...
    def immediate(self) -> Journal: ...
    def kind(self) -> str: ...
    def address(self) -> str: ...
    def sources(self, *, adopt: bool) -> Sequence[Source]: ...
    def spool_path(self) -> Path: ...
    def expect_collector(self) -> None: ...
    def flush(self) -> None: ...


_choices: list[Choice] = []
_replaced_by: list[Journal] = []


def install(choice: Choice) -> None:
    _choices[:] = [choice]


def use(journal: Journal | None) -> Journal | None:
    """Makes `journal` the one that this process appends to, whatever the settings say; None: what they say.
    Returns the one that was in use like this before."""
    before = _replaced_by[0] if _replaced_by else None
    _replaced_by[:] = [] if journal is None else [journal]
    return before


def current() -> Journal:
    """Raises LookupError before Django has started the app, ImproperlyConfigured where `JOURNAL` can't be had."""
    return _replaced_by[0] if _replaced_by else _choice().current()


def immediate() -> Journal:
    """The journal that applies at once: for what runs in the caller's own process and transaction."""
    return _replaced_by[0] if _replaced_by else _choice().immediate()


def kind() -> str:
    """ "redis", "spool" or "direct": what "auto" comes to."""
    return _choice().kind()


def address() -> str:
    """Where the journal is, for people, without a password; "" for the direct one."""
    return _choice().address()


def sources(*, adopt: bool = False) -> Sequence[Source]:
    """What there is to drain on this host: the streams, and the spool. New ones at each call; nothing is asked yet."""
    return _choice().sources(adopt=adopt)


def spool_path() -> Path:
    """Raises OSError for one that can't be trusted."""
    return _choice().spool_path()


def spool_lag() -> float:
    """For how many seconds the oldest event has waited in the spool of this host; 0 where none waits. Raises OSError
    for a spool that can't be read."""
    oldest = None if kind() == "direct" else oldest_in(spool_path())
    return 0.0 if oldest is None else max(0.0, (datetime.now(UTC) - oldest).total_seconds())


def expect_collector(**_signal: object) -> None:
    """Said where a worker starts: a drain on this host is on its way."""
    _choice().expect_collector()


def prepare(**_signal: object) -> None:
    """In a process that is about to run tasks: connects, so that none of them waits for that."""
    current().prepare()


def flush(**_signal: object) -> None:
    """Waits a moment for what is under way, in a process that ends."""
    _choice().flush()


def _choice() -> Choice:
    if not _choices:
        raise LookupError("expected a journal, got none: is django_taskops in INSTALLED_APPS?")
    return _choices[0]
