"""Keeps events safe until they are applied. One journal serves the whole process."""

from .base import Journal

_journals: dict[str, Journal] = {}


def use(journal: Journal) -> None:
    """Makes `journal` the one that this process appends to."""
    _journals["current"] = journal


def current() -> Journal:
    """Raises LookupError before Django has started the app."""
    try:
        return _journals["current"]
    except KeyError:
        raise LookupError("expected a journal, got none: is django_taskops in INSTALLED_APPS?") from None
