"""The demo's own count against what the database says."""

from dataclasses import replace

import pytest

from example_site.accounts import Run, differences
from example_site.ledger import Ledger

DONE = Run(task_id="1", name="shop.task", subject="", state="SUCCESS", reason="")
DEAD = replace(DONE, state="FAILURE", reason="exhausted", letters=("open",))


def ledger(*ends: str, task_id: str = "1") -> Ledger:
    """One publish for each end given; an empty end has not come yet."""
    published = [f"published\t{task_id}\tshop.task"] * len(ends)
    return Ledger.parse([*published, *(f"ended\t{task_id}\t{state}" for state in ends if state)])


def found(counted: Ledger, *runs: Run) -> list[str]:
    return [difference.text for difference in differences(counted, runs)]


def test_a_task_that_both_know_in_the_same_state_is_accounted_for() -> None:
    assert found(ledger("SUCCESS"), DONE) == []


def test_a_dead_task_is_accounted_for_by_its_reason_and_letter() -> None:
    assert found(ledger("RETRY", "FAILURE"), DEAD) == []


def test_a_published_task_without_a_row_is_missing() -> None:
    assert found(ledger("SUCCESS")) == ["published, but the database has no row"]


def test_a_row_that_nobody_published_is_reported() -> None:
    assert found(Ledger(), DONE) == ["in the database, but nobody published it"]


def test_a_step_that_waits_for_a_dead_one_need_not_be_published() -> None:
    assert found(Ledger(), replace(DEAD, reason="upstream_failed", letters=())) == []


def test_a_task_that_ended_may_not_be_shown_as_running() -> None:
    assert found(ledger("SUCCESS"), replace(DONE, state="STARTED")) == ["still STARTED"]


def test_the_database_may_not_tell_another_ending_than_the_worker() -> None:
    assert found(ledger("FAILURE"), DONE) == ["SUCCESS in the database, FAILURE in the worker"]


def test_a_success_after_a_requeue_counts_however_late_a_retry_was_noted() -> None:
    assert found(ledger("FAILURE", "SUCCESS", "RETRY"), DONE) == []


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (replace(DEAD, reason=""), "FAILURE without a reason"),
        (replace(DEAD, letters=()), "FAILURE without a dead letter"),
    ],
)
def test_a_bad_ending_must_be_explained(run: Run, text: str) -> None:
    assert found(ledger("FAILURE"), run) == [text]


def test_a_publish_without_its_end_is_unsettled() -> None:
    assert ledger("RETRY", "").unsettled() == {"1"}
    assert ledger("RETRY", "SUCCESS").unsettled() == set()


def test_an_end_noted_before_its_publish_is_unsettled() -> None:
    assert Ledger.parse(["ended\t1\tSUCCESS"]).unsettled() == {"1"}
