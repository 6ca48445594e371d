"""A recorder that fails at every turn, for the promise that it never hurts a task."""
# ruff: noqa: ARG002

from collections.abc import Mapping
from typing import Any, NoReturn

from django_taskops import journal
from django_taskops.events import Record


class BrokenJournal:
    def append(self, event: Record) -> None:
        _raise()

    def append_later(self, event: Record) -> None:
        _raise()

    def deferring(self) -> bool:
        _raise()

    def prepare(self) -> None:
        _raise()

    def flush(self, **signal: object) -> None:
        _raise()

    def holder(self, key: str) -> str:
        _raise()

    def claim(self, key: str, holder: str) -> str:
        _raise()

    def claim_beside(self, other: str, key: str, holder: str) -> tuple[str, str]:
        _raise()

    def claim_all(self, claims: Mapping[str, str]) -> None:
        _raise()


def break_journal(**_kwargs: Any) -> None:
    journal.use(BrokenJournal())


def _raise() -> NoReturn:
    raise RuntimeError("the journal is broken")
