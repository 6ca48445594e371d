"""The fold: what a set of events means, whatever their order, their repetition and how they were batched."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_taskops.events import Call, Event, EventKind, Outcome
from django_taskops.projection.merge import Letter, Merged, Run, falls_back, merge
from django_taskops.projection.verdict import PRECEDENCE, STATES, Delivery, Epoch
from django_taskops.states import FINISHED, SETTLED, UNFINISHED, DeadLetterReason, LetterStatus, TaskState
from tests.projection.histories import START, histories


@dataclass(slots=True)
class Rows:
    """The tables of one run, kept in memory."""

    run: Run = field(default_factory=lambda: Run(task_id="run"))
    attempts: dict[str, Delivery] = field(default_factory=dict)
    letters: dict[Epoch, Letter] = field(default_factory=dict)

    def apply(self, batch: Sequence[Event]) -> Merged:
        mentioned = {event.delivery for event in batch}
        everything = self.letters or falls_back(self.run, batch)
        loaded = {
            key: delivery
            for key, delivery in self.attempts.items()
            if everything or key in mentioned or delivery.state in SETTLED or delivery.never_sent
        }
        merged = merge(self.run, loaded, list(self.letters.values()), batch)
        self.run = replace(merged.run, newly_described=False)
        self.attempts.update((delivery.delivery, delivery) for delivery in merged.attempts)
        for key in merged.obsolete:
            del self.attempts[key]
        for epoch, status in merged.letters.items():
            self.letters[epoch] = Letter(publication=epoch[0], generation=epoch[1], status=status)
        return merged

    def visible(self) -> tuple[object, ...]:
        attempts = {key: replace(d, result=None, dead_letter_queue="") for key, d in self.attempts.items()}
        return (replace(self.run, shown=replace(self.run.shown, frames=()), newly_described=False), attempts)

    def open_letters(self) -> set[Epoch]:
        """Of the newest publication: what is under way of an older one leaves no trace in the rows."""
        newest = self.run.shown.publication
        opened = {epoch for epoch, letter in self.letters.items() if letter.status == LetterStatus.OPEN}
        return {epoch for epoch in opened if epoch[0] == newest}


def rows_after(events: Sequence[Event], batch_size: int = 1) -> Rows:
    rows = Rows()
    for start in range(0, len(events), batch_size):
        rows.apply(events[start : start + batch_size])
    return rows


@given(history=histories(), data=st.data(), batch_size=st.integers(1, 7))
def test_any_permutation_repetition_and_batching_gives_the_same_rows(
    history: list[Event], data: st.DataObject, batch_size: int
) -> None:
    repeated = history + data.draw(st.lists(st.sampled_from(history), max_size=10))
    shuffled = data.draw(st.permutations(repeated))

    expected, found = rows_after(history), rows_after(shuffled, batch_size)

    assert found.visible() == expected.visible()
    assert found.open_letters() == expected.open_letters()


@given(history=histories())
def test_a_finished_state_is_left_only_by_a_newer_delivery_or_for_a_weightier_verdict(history: list[Event]) -> None:
    rows = Rows()
    for event in history:
        before = rows.run.shown
        rows.apply([event])
        after = rows.run.shown
        if before.state in FINISHED and after.state in UNFINISHED:
            assert order(after) > order(before)


def order(delivery: Delivery) -> tuple[object, ...]:
    newest = (delivery.epoch, delivery.nesting, delivery.retries, delivery.seen)
    return (*newest, PRECEDENCE[delivery.verdict])


@given(history=histories())
def test_a_success_wins_within_its_generation(history: list[Event]) -> None:
    rows = rows_after(history)
    newest = max((event.publication, event.generation) for event in history)
    succeeded = any(
        delivery.epoch == newest and delivery.state == TaskState.SUCCESS
        for delivery in (rows.run.shown, *rows.attempts.values())
    )

    assert (rows.run.shown.state == TaskState.SUCCESS) == succeeded


@given(history=histories())
def test_what_has_died_has_an_open_letter_and_what_has_ended_well_has_none(history: list[Event]) -> None:
    rows = rows_after(history)
    is_open = rows.run.shown.epoch in rows.open_letters()

    if rows.run.shown.state in FINISHED:  # where the broker delivers it again, the letter stays open meanwhile
        assert is_open == rows.run.shown.dead


@given(history=histories())
def test_every_delivery_is_kept_and_a_first_success_costs_one_row(history: list[Event]) -> None:
    rows = rows_after(history)
    deliveries = {event.delivery for event in history} - {""}

    assert set(rows.attempts) | {rows.run.shown.delivery} - {""} == deliveries
    if deliveries == {rows.run.shown.delivery} and rows.run.shown.state == TaskState.SUCCESS:
        assert rows.attempts == {}


def test_every_kind_that_is_said_of_a_delivery_has_a_state() -> None:
    assert set(EventKind) - set(STATES) == {EventKind.PUBLISHED, EventKind.PROGRESS}


def event(kind: EventKind, second: int = 0, **facts: object) -> Event:
    defaults = {"delivery": "" if kind == EventKind.PUBLISHED else "d1", "position": second + 1}
    return Event(
        kind=kind,
        task_id="run",
        task_name="shop.tasks.price",
        at=START + timedelta(seconds=second),
        **(defaults | facts),  # type: ignore[arg-type]
    )


def failed(second: int = 1, **facts: object) -> Event:
    outcome = Outcome(reason=DeadLetterReason.EXHAUSTED, exception_type="KeyError")
    return event(EventKind.FAILED, second, **({"outcome": outcome} | facts))


def test_a_retry_that_is_told_after_the_next_attempt_started_does_not_undo_it() -> None:
    rows = rows_after(
        [
            event(EventKind.STARTED, 0, delivery="d1"),
            event(EventKind.STARTED, 2, delivery="d2", retries=1),
            event(EventKind.RETRIED, 3, delivery="d1", position=3),
        ]
    )

    assert rows.run.shown.state == TaskState.STARTED
    assert rows.attempts["d1"].state == TaskState.RETRY


def test_a_replaced_task_that_starts_again_at_retries_0_is_newer_than_the_retried_one() -> None:
    rows = rows_after(
        [
            event(EventKind.STARTED, 0, delivery="d1", retries=2),
            event(EventKind.SUCCEEDED, 1, delivery="d2", nesting=1, retries=0),
            event(EventKind.IGNORED, 2, delivery="d1", retries=2),
        ]
    )

    assert (rows.run.shown.delivery, rows.run.shown.state) == ("d2", TaskState.SUCCESS)


@pytest.mark.parametrize("late", [EventKind.WORKER_LOST, EventKind.BROKE, EventKind.REVOKED])
def test_what_the_main_process_says_after_a_success_changes_nothing(late: EventKind) -> None:
    rows = rows_after([event(EventKind.SUCCEEDED, 1), event(late, 2)])

    assert rows.run.shown.state == TaskState.SUCCESS
    assert rows.letters == {}


def test_the_exception_of_the_body_outweighs_the_loss_of_its_process() -> None:
    rows = rows_after([event(EventKind.WORKER_LOST, 2), failed(1)])

    assert rows.run.shown.exception_type == "KeyError"


def test_a_result_that_cannot_be_stored_outweighs_the_success_told_before() -> None:
    rows = rows_after([event(EventKind.SUCCEEDED, 1), event(EventKind.UNSERIALIZABLE, 2)])

    assert rows.run.shown.reason == DeadLetterReason.UNSERIALIZABLE_RESULT


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (EventKind.STARTED, TaskState.SUCCESS),
        (EventKind.ABANDONED, TaskState.SUCCESS),
        (EventKind.WORKER_LOST, TaskState.SUCCESS),
        (EventKind.SUCCEEDED, TaskState.SUCCESS),
        (EventKind.FAILED, TaskState.FAILURE),
        (EventKind.UNSERIALIZABLE, TaskState.FAILURE),
    ],
)
def test_a_body_that_has_returned_was_not_lost_and_what_celery_makes_of_it_at_the_end_outweighs_that(
    other: EventKind, expected: TaskState
) -> None:
    rows = rows_after([event(other, 2), event(EventKind.RETURNED, 1)])

    assert rows.run.shown.state == expected


@pytest.mark.parametrize("retries", [0, 1], ids=["delivered again meanwhile", "retried before it died"])
def test_a_success_that_was_found_is_that_of_the_delivery_which_tells_it(retries: int) -> None:
    found = event(EventKind.SUCCESS_STORED, 3)
    told = [event(EventKind.RETURNED, 2, delivery="d2", retries=retries)]
    told += [event(EventKind.SUCCEEDED, 3, delivery="d2", retries=retries)]
    for order in permutations([event(EventKind.STARTED, 0), found, *told]):
        rows = rows_after(order)

        assert (rows.run.shown.delivery, rows.run.shown.state) == ("d2", TaskState.SUCCESS)
        assert (rows.attempts["d1"].state, rows.attempts["d1"].reason) == (TaskState.FAILURE, "worker_lost")
        assert not rows.open_letters()


def test_a_success_that_was_found_is_not_of_a_body_that_has_failed_or_is_retried() -> None:
    for told in (EventKind.FAILED, EventKind.RETRIED):
        rows = rows_after([event(told, 1), event(EventKind.SUCCESS_STORED, 2)])

        assert rows.run.shown.verdict == told


def test_a_success_that_was_found_is_its_own_again_where_the_other_delivery_has_failed_after_all() -> None:
    events = [event(EventKind.SUCCESS_STORED, 3), event(EventKind.RETURNED, 2, delivery="d2")]
    for order in permutations([*events, failed(4, delivery="d2", retries=0)]):
        rows = rows_after(order)

        assert (rows.run.shown.delivery, rows.run.shown.state) == ("d1", TaskState.SUCCESS)


def test_a_success_that_was_found_and_that_nobody_tells_is_its_own() -> None:
    rows = rows_after([event(EventKind.STARTED, 0), event(EventKind.SUCCESS_STORED, 1)])

    assert (rows.run.shown.state, rows.attempts, rows.letters) == (TaskState.SUCCESS, {}, {})


def test_a_second_publish_of_an_id_shows_and_the_first_stays_in_the_history() -> None:
    rows = rows_after(
        [
            event(EventKind.SUCCEEDED, 1, publication="0001"),
            event(EventKind.PUBLISHED, 2, publication="0002"),
        ]
    )

    assert rows.run.shown.state == TaskState.PENDING
    assert rows.attempts["d1"].state == TaskState.SUCCESS


def test_a_death_that_needs_nobody_leaves_no_letter() -> None:
    rows = rows_after([failed(outcome=Outcome(reason=DeadLetterReason.FAILED, dead_letter=False))])

    assert rows.run.shown.state == TaskState.FAILURE
    assert rows.letters == {}


def test_a_late_success_resolves_the_letter() -> None:
    rows = rows_after([event(EventKind.WORKER_LOST, 1), event(EventKind.SUCCEEDED, 5)])

    assert [letter.status for letter in rows.letters.values()] == [LetterStatus.RESOLVED]


def test_a_letter_whose_run_the_broker_delivers_again_stays_open_since_nobody_requeued_it() -> None:
    rows = rows_after([failed(), event(EventKind.STARTED, 5, delivery="d2")])
    waiting = rows.letters["", 0].status
    rows.apply([event(EventKind.SUCCEEDED, 6, delivery="d2")])

    assert (waiting, rows.letters["", 0].status) == (LetterStatus.OPEN, LetterStatus.RESOLVED)


def test_without_a_position_the_delivery_that_is_applied_first_was_seen_first() -> None:
    """Whatever the clocks of two hosts say."""
    rows = rows_after([event(EventKind.STARTED, 9, delivery="d2", position=0), failed(1, delivery="d1", position=0)])

    assert (rows.attempts["d2"].seen, rows.run.shown.delivery, rows.run.shown.seen) == (1, "d1", 2)


def test_a_replacement_told_late_settles_the_requeue_that_it_ends() -> None:
    """`self.replace(chain(...))`: the last step has the id, and a publication of its own."""
    replaced = event(EventKind.IGNORED, 8, delivery="d2", generation=1, publication="0001")
    rows = rows_after(
        [failed(publication="0001"), event(EventKind.STARTED, 5, delivery="d2", generation=1, publication="0001")]
    )
    rows.apply([event(EventKind.SUCCEEDED, 7, delivery="d3", publication="0002")])
    rows.apply([replaced])

    assert rows.letters["0001", 0].status == LetterStatus.RESOLVED


def test_a_requeue_that_dies_supersedes_the_letter_and_one_that_succeeds_resolves_it() -> None:
    dies, heals = rows_after([failed()]), rows_after([failed()])
    dies.apply([failed(5, delivery="d2", generation=1)])
    heals.apply([event(EventKind.SUCCEEDED, 5, delivery="d2", generation=1)])

    assert {epoch: letter.status for epoch, letter in dies.letters.items()} == {
        ("", 0): LetterStatus.SUPERSEDED,
        ("", 1): LetterStatus.OPEN,
    }
    assert heals.letters["", 0].status == LetterStatus.RESOLVED


def test_a_letter_that_is_being_sent_stays_requeued_though_its_death_is_told_again() -> None:
    rows = rows_after([failed()])
    rows.letters["", 0] = replace(rows.letters["", 0], status=LetterStatus.REQUEUED, sent_generation=1)

    merged = rows.apply([failed()])

    assert merged.letters["", 0] == LetterStatus.REQUEUED


def test_a_discarded_letter_stays_discarded() -> None:
    rows = rows_after([failed()])
    rows.letters["", 0] = replace(rows.letters["", 0], status=LetterStatus.DISCARDED)

    merged = rows.apply([event(EventKind.STARTED, 9, delivery="d2")])

    assert merged.letters["", 0] == LetterStatus.DISCARDED


def test_a_requeue_that_somebody_revokes_opens_the_letter_again() -> None:
    rows = rows_after([failed(), event(EventKind.REVOKED, 5, delivery="d2", generation=1)])

    assert rows.letters["", 0].status == LetterStatus.OPEN


def test_the_message_on_the_wire_outweighs_the_publishers_word_and_a_retry_both() -> None:
    published = event(EventKind.PUBLISHED, 0, call=Call(queue="published"))
    received = event(EventKind.RECEIVED, 1, call=Call(queue="received"))
    retried = event(EventKind.PUBLISHED, 2, retries=1, call=Call(queue="retried"))

    assert rows_after([received, published]).run.call.queue == "received"
    assert rows_after([retried, received, published]).run.call.queue == "retried"


def test_the_arguments_are_shown_as_their_publisher_saw_them_and_the_envelope_is_that_on_the_wire() -> None:
    published = event(EventKind.PUBLISHED, 0, call=Call(args=[{"password": "[redacted]"}], envelope=b"guessed"))
    received = event(EventKind.RECEIVED, 1, call=Call(args=[["hunter2"]], envelope=b"wire"))

    for order in ([published, received], [received, published]):
        run = rows_after(order, batch_size=2).run
        assert (run.call.args, run.call.envelope) == ([{"password": "[redacted]"}], b"wire")


def test_a_retry_does_not_change_when_the_run_was_enqueued() -> None:
    rows = rows_after([event(EventKind.PUBLISHED, 0), event(EventKind.PUBLISHED, 9, retries=1)])

    assert rows.run.enqueued_at == START


def test_a_finished_run_holds_no_envelope() -> None:
    assert {kind for kind in STATES if not rows_after([event(kind)]).run.holds_envelope} == {
        kind for kind, state in STATES.items() if state in FINISHED
    }


def never_sent(second: int = 3) -> Event:
    return event(EventKind.UPSTREAM_FAILED, second, delivery="n", position=second + 1, call=Call(queue="given up"))


def test_what_will_never_run_says_so_without_an_attempt_or_a_letter() -> None:
    rows = rows_after([never_sent(), never_sent(9), never_sent()])

    assert (rows.run.shown.state, rows.run.shown.reason) == (TaskState.FAILURE, "upstream_failed")
    assert (rows.attempts, rows.letters, rows.run.call.queue) == ({}, {}, "given up")


@pytest.mark.parametrize("publication", ["", "0002"])
def test_what_is_sent_after_all_shows_that_in_any_order_of_events(publication: str) -> None:
    """The step before it was requeued; whatever the clocks say, and also where its publisher has not this app."""
    its: dict[str, object] = {"publication": publication, "delivery": "d1"}
    told = event(EventKind.RECEIVED, 5, call=Call(queue="sent", envelope=b"whole"), **its)
    history = [never_sent(), told, event(EventKind.STARTED, 6, **its), event(EventKind.FAILED, 7, **its)]

    found = []
    for order in permutations(history):
        rows = rows_after(list(order))
        found.append((rows.run.shown.delivery, rows.run.call.queue, rows.run.call.envelope, set(rows.attempts)))
    assert all(each == ("d1", "sent", b"whole", {"d1", "n"}) for each in found)


def test_a_publish_alone_outweighs_it() -> None:
    for order in permutations([never_sent(), event(EventKind.PUBLISHED, 5, publication="0002")]):
        assert rows_after(list(order)).run.shown.state == TaskState.PENDING


def test_a_task_that_was_replaced_by_a_canvas_shows_that_this_has_been_given_up() -> None:
    """`self.replace(chain(...))`: the last step has the id of the task."""
    its: dict[str, object] = {"publication": "0001", "delivery": "d1"}
    replaced = event(EventKind.IGNORED, 4, outcome=Outcome(reason="replaced"), **its)

    for order in permutations([event(EventKind.STARTED, 1, **its), replaced, never_sent()]):
        rows = rows_after(list(order))
        assert (rows.run.shown.reason, set(rows.attempts)) == ("upstream_failed", {"d1"})
