"""One at a time."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone

from django_taskops.models import OutboxEntry, OutboxKind
from django_taskops.recovery import lease
from django_taskops.recovery.lease import Lease

pytestmark = pytest.mark.mariadb


class Clock:
    """This process's clock; the database has its own."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    told = Clock()
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=told))
    return told


def _run_out() -> None:
    OutboxEntry.objects.filter(kind=OutboxKind.LEASE).update(claimed_until=timezone.now() - timedelta(days=1))


def test_one_holds_and_the_others_wait(database: str, clock: Clock) -> None:
    first, second = Lease("x", 30), Lease("x", 30)
    assert first.hold()
    assert not second.hold()
    clock.seconds += 20
    assert first.hold()
    assert not second.hold()


def test_another_lease_is_another_matter(database: str, clock: Clock) -> None:
    assert Lease("x", 30).hold()
    assert Lease("y", 30).hold()


def test_one_that_is_let_go_is_free_at_once(database: str, clock: Clock) -> None:
    first, second = Lease("x", 30), Lease("x", 30)
    first.hold()
    first.release()
    assert second.hold()
    assert not first.hold()


def test_one_who_was_stopped_for_too_long_learns_that_it_has_lost_it(database: str, clock: Clock) -> None:
    first, second = Lease("x", 30), Lease("x", 30)
    assert first.hold()
    _run_out()
    assert second.hold()
    clock.seconds += 60
    assert not first.hold()
    first.release()
    assert not Lease("x", 30).hold()


def test_holding_it_writes_nothing_until_it_has_to_be_renewed(
    database: str, clock: Clock, django_assert_num_queries: Any
) -> None:
    held = Lease("x", 30)
    held.hold()
    with django_assert_num_queries(0, using=database):
        clock.seconds += 9
        held.hold()
    before = OutboxEntry.objects.get(key="lease:x").claimed_until
    clock.seconds += 2
    held.hold()
    assert OutboxEntry.objects.get(key="lease:x").claimed_until > before
