"""Decisions on many letters: pinned, worked off in chunks, gone on with after a crash, and nothing is sent twice."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from django_taskops.exceptions import NotRequeueable
from django_taskops.models import AuditAction, AuditEntry, DeadLetter, OutboxEntry, OutboxStatus
from django_taskops.recovery import bulk, housekeeper, many
from django_taskops.recovery.broker import Publisher, Unreachable
from django_taskops.recovery.bulk import BulkRun
from django_taskops.recovery.decide import Decided, Person
from django_taskops.recovery.intents import Order
from django_taskops.recovery.message import Changes
from tests.factories import DeadLetterFactory

LI = Decided(Person("7", "li"), "the supplier is back")
ORDER = Order(changes=Changes.checked(attempts=2), decided=LI)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, queue: Any) -> list[str]:
    """The ids of the tasks whose messages are put on the broker."""
    ids: list[str] = []
    monkeypatch.setattr(Publisher, "publish", lambda _self, _app, envelope: ids.append(envelope.headers["id"]))
    return ids


@pytest.fixture(autouse=True)
def chunks_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 2)


def letters(count: int, **more: Any) -> list[DeadLetter]:
    found: list[DeadLetter] = DeadLetterFactory.create_batch(count, **more)
    return found


def handed_over(
    chosen: Sequence[DeadLetter], action: AuditAction = AuditAction.REQUEUE, order: Order = ORDER, key: str = "k"
) -> bool:
    return bulk.hand_over(key, action, [letter.pk for letter in chosen], order)


def seen() -> BulkRun:
    (run,) = bulk.newest(10)
    return run


def due_now() -> None:
    """As if the time had passed that a claim lasts, or until it is tried again."""
    ago = timezone.now() - timedelta(seconds=1)
    OutboxEntry.objects.filter(claimed_until__isnull=False).update(claimed_until=ago)
    OutboxEntry.objects.update(available_at=ago)


def test_what_is_handed_over_is_worked_off_with_who_and_why(database: str, sent: list[str]) -> None:
    chosen = [*letters(3), *letters(1, resolved=True), *letters(2, without_envelope=True)]
    assert handed_over(chosen)
    assert (seen().to_go, seen().status, seen().finished_at) == (6, OutboxStatus.PENDING, None)
    bulk.work_off()
    run = seen()

    assert sorted(sent) == sorted(letter.task_id for letter in chosen[:3])
    assert (run.done, run.to_go, run.status) == (3, 0, OutboxStatus.DONE)
    assert {reason.code: reason.count for reason in run.refused} == {"taken:resolved": 1, "payload_too_large": 2}
    assert {(entry.user_name, entry.why, entry.details["attempts"]) for entry in AuditEntry.objects.all()} == {
        ("li", "the supplier is back", 2)
    }
    assert run.finished_at is not None


@pytest.mark.parametrize(
    ("action", "state", "becomes"),
    [(AuditAction.DISCARD, {}, "discarded"), (AuditAction.RESTORE, {"discarded": True}, "open")],
)
def test_discards_and_restores_are_worked_off_likewise(
    database: str, action: AuditAction, state: dict[str, bool], becomes: str
) -> None:
    chosen = letters(3, **state)
    handed_over(chosen, action)
    bulk.work_off()

    assert {letter.status for letter in DeadLetter.objects.all()} == {becomes}
    assert (seen().done, seen().status) == (3, OutboxStatus.DONE)
    assert {entry.user_name for entry in AuditEntry.objects.all()} == {"li"}


def test_it_is_handed_over_once_for_each_confirmation(database: str) -> None:
    chosen = letters(1)

    assert handed_over(chosen)
    assert not handed_over(chosen)
    assert OutboxEntry.objects.count() == 1


def test_a_call_ends_when_its_time_is_up_and_the_next_goes_on(
    database: str, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = letters(5)
    handed_over(chosen)
    ticks = iter([0.0, 0.0, 0.0, 99.0, *[99.0] * 9])
    with monkeypatch.context() as patched:
        patched.setattr("django_taskops.recovery.bulk.monotonic", lambda: next(ticks))
        bulk.work_off()
    assert (seen().done, seen().to_go, seen().at_work) == (2, 3, False)
    bulk.work_off()

    assert len(sent) == len(set(sent)) == 5
    assert seen().done == 5


def test_after_a_crash_it_goes_on_where_it_was_and_nothing_is_sent_twice(
    database: str, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies when its second chunk is sent, before that is written down."""

    def die(entry: OutboxEntry, **fields: Any) -> bool:
        if entry.payload["done"] == 4:
            raise SystemExit("killed")
        return save(entry, **fields)

    chosen = letters(5)
    handed_over(chosen)
    save = bulk._save
    with monkeypatch.context() as patched:
        patched.setattr(bulk, "_save", die)
        with pytest.raises(SystemExit):
            bulk.work_off()
    assert (len(sent), seen().done, seen().at_work) == (4, 2, True)
    bulk.work_off()
    assert len(sent) == 4, "another process waits until the claim is over"
    due_now()
    bulk.work_off()

    assert len(sent) == len(set(sent)) == 5
    assert (seen().done, list(seen().refused), seen().status) == (5, [], OutboxStatus.DONE)


def test_what_somebody_else_has_taken_is_not_counted_as_done(database: str, sent: list[str]) -> None:
    chosen = letters(2)
    handed_over(chosen)
    DeadLetter.objects.filter(pk=chosen[0].pk).update(status="discarded", decided_at=timezone.now())
    bulk.work_off()

    assert (seen().done, [reason.code for reason in seen().refused]) == (1, ["taken:discarded"])


def test_a_broker_that_is_away_is_waited_for(database: str, sent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(self: Publisher, app: Any, envelope: Any) -> None:
        self._unreachable[app] = "refused"
        raise Unreachable("refused")

    chosen = letters(3)
    handed_over(chosen)
    with monkeypatch.context() as patched:
        patched.setattr(Publisher, "publish", cut)
        bulk.work_off()
        run = seen()
        assert (run.to_go, run.done, run.error, run.status) == (3, 0, bulk.UNREACHABLE, OutboxStatus.PENDING)
        assert set(DeadLetter.objects.values_list("status", flat=True)) == {"open"}
        bulk.work_off()
        assert OutboxEntry.objects.get(kind="decide_many").tries == 1, "not before its time"
        for _try in range(bulk.MAX_TRIES - 2):
            due_now()
            bulk.work_off()
    due_now()
    bulk.work_off()

    assert (len(sent), seen().done, seen().error, seen().status) == (3, 3, "", OutboxStatus.DONE)


def test_each_chunk_that_is_done_counts_the_tries_from_the_start(
    database: str, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = many.decide_each

    def then_cut_off(*given: Any) -> Any:
        monkeypatch.setattr(many, "decide_each", cut_off)
        return decide(*given)

    def cut_off(*given: Any) -> Any:
        yield from ((pk, NotRequeueable("not_tried", "x")) for pk in given[1])

    handed_over(letters(3))
    OutboxEntry.objects.update(tries=bulk.MAX_TRIES - 1)
    monkeypatch.setattr(bulk, "CHUNK", 2)
    monkeypatch.setattr(many, "decide_each", then_cut_off)
    bulk.work_off()

    assert (seen().status, seen().done, seen().to_go) == (OutboxStatus.PENDING, 2, 1)


def test_a_broker_that_stays_away_ends_it_with_the_rest_not_tried(
    database: str, queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_given: Any) -> Any:
        yield from ((pk, NotRequeueable("not_tried", "x")) for pk in _given[1])

    handed_over(letters(3))
    monkeypatch.setattr(many, "decide_each", cut_off)
    for _try in range(bulk.MAX_TRIES):
        due_now()
        bulk.work_off()

    assert (seen().status, seen().to_go) == (OutboxStatus.FAILED, 3)


def test_one_bad_letter_never_stops_the_rest(database: str, sent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(pks: Sequence[int], order: Order) -> Any:
        if chosen[1].pk in pks:
            raise OperationalError("one odd row")
        return requeue_each(pks, order)

    chosen = [*letters(1), *letters(1, envelope=b"nonsense"), *letters(3)]
    handed_over(chosen)
    requeue_each = import_module("django_taskops.recovery.requeue").requeue_each
    monkeypatch.setattr(many, "requeue_each", breaking)
    bulk.work_off()

    assert sorted(sent) == sorted(letter.task_id for letter in (chosen[0], *chosen[2:]))
    assert (seen().done, seen().unconfirmed, seen().to_go) == (4, 1, 0)


def test_a_stop_ends_it_between_two_chunks(database: str, sent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(*given: Any) -> Any:
        yield from decide_each(*given)
        assert bulk.stop(OutboxEntry.objects.get(kind="decide_many").pk, "maria")

    handed_over(letters(5))
    decide_each = many.decide_each
    monkeypatch.setattr(many, "decide_each", stopping)
    bulk.work_off()
    due_now()
    bulk.work_off()

    run = seen()
    assert (len(sent), run.done, run.to_go, run.status) == (2, 2, 3, OutboxStatus.FAILED)
    assert run.error == "stopped: maria"
    assert not bulk.stop(run.pk, "maria")


def test_two_workers_at_once_never_work_on_the_same(
    database: str, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looks while the first is in the middle of a chunk."""

    def looked_at(*given: Any) -> Any:
        if not second:
            second.append(True)
            bulk.work_off()
            assert not sent
        yield from decide_each(*given)

    second: list[bool] = []
    decide_each = many.decide_each
    monkeypatch.setattr(many, "decide_each", looked_at)
    handed_over(letters(4))
    bulk.work_off()

    assert len(sent) == len(set(sent)) == 4


def test_whoever_has_lost_the_claim_leaves_the_count_to_the_other(
    database: str, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held up for longer than its claim lasts."""

    def overtaken(*given: Any) -> Any:
        yield from decide_each(*given)
        OutboxEntry.objects.filter(kind="decide_many").update(claimed_by="another")

    handed_over(letters(4))
    decide_each = many.decide_each
    with monkeypatch.context() as patched:
        patched.setattr(many, "decide_each", overtaken)
        bulk.work_off()
    assert (len(sent), seen().done) == (2, 0)
    due_now()
    bulk.work_off()

    assert len(sent) == len(set(sent)) == 4
    assert seen().done == 4


def test_the_housekeeper_works_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    chores: list[Callable[[], object]] = []
    monkeypatch.setattr(housekeeper.Housekeeper, "__init__", lambda _self, given: chores.extend(given))
    monkeypatch.setattr(housekeeper.Housekeeper, "start", lambda _self: None)
    monkeypatch.setattr(housekeeper, "_housekeepers", [])
    housekeeper.start()

    assert bulk.work_off in chores
