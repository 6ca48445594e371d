"""A journal made of what the tests say waits in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from django_taskops import journal
from django_taskops.journal.base import Backlog, Entry
from django_taskops.journal.codec import encode
from django_taskops.projection import status
from tests.events import Story

HEALTHY = {"redis_version": "7.2.4", "maxmemory": "0", "maxmemory_policy": "noeviction", "aof_enabled": "1", "save": ""}


@dataclass(kw_only=True)
class FakeSource:
    """Answers only what a page may ask. `error` is raised instead."""

    name: str = "redis"
    holding: Backlog = field(default_factory=Backlog)
    error: Exception | None = None
    known: Mapping[str, str] = field(default_factory=lambda: dict(HEALTHY))
    asked: int = 0

    def backlog(self) -> Backlog:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.holding

    def facts(self) -> Mapping[str, str]:
        return self.known


def waiting(entries: int = 214, seconds: float = 300, **more: Any) -> Backlog:
    """A backlog whose oldest event is that old."""
    oldest = timezone.now() - timedelta(seconds=seconds)
    return replace(Backlog(entries=entries, size=entries * 700, limit=256 * 1024**2, oldest_at=oldest), **more)


def entries(*datas: bytes) -> Sequence[Entry]:
    return [Entry(f"{number}-0", data, number) for number, data in enumerate(datas, start=1)]


def published() -> bytes:
    return encode(Story().published())


UseSources = Callable[..., None]


def installer(monkeypatch: pytest.MonkeyPatch) -> UseSources:
    """Makes these the sources of the installation; without any, the journal is the direct one."""

    def use(*sources: FakeSource, kind: str = "", address: str = "localhost:6379/1") -> None:
        monkeypatch.setattr(journal, "sources", lambda **_options: list(sources))
        monkeypatch.setattr(journal, "kind", lambda: kind or (sources[0].name if sources else "direct"))
        monkeypatch.setattr(journal, "address", lambda: address if sources else "")
        status.forget()

    return use
