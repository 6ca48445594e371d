"""The rules of the chaos run, fed with tables and ledgers that were tampered with: a rule that can't fail proves
nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chaos.faults import Scenario
from chaos.ledger import What
from chaos.tables import Audit, Letter
from chaos.verdict import ONLY, RULES, judge
from chaos.verdict.finding import Finding
from tests.chaos.stories import FIRST, MILLISECOND, OTHER, Story, of, quiet, said, spend

LONG = 150 * MILLISECOND
SHORT = 50 * MILLISECOND
LOST: dict[str, Any] = {"state": "FAILURE", "reason": "worker_lost", "verdict": "worker_lost"}

Tampering = Callable[[Story], None]
tamperings: dict[str, list[tuple[Tampering, str]]] = {}


def breaks(rule: str, sentence: str) -> Callable[[Tampering], Tampering]:
    """The tampering below makes that rule say that sentence."""

    def register(tampering: Tampering) -> Tampering:
        tamperings.setdefault(rule, []).append((tampering, sentence))
        return tampering

    return register


@breaks("every_task_is_accounted_for", "plain: no row tells of it")
def a_run_is_missing(story: Story) -> None:
    del story.runs["plain"]


@breaks("every_task_is_accounted_for", "ghost: no row tells of it")
def a_refused_publish_ran_all_the_same(story: Story) -> None:
    story.tell(What.REFUSED, task_id="ghost")
    story.tell(What.START, task_id="ghost", delivery="d-ghost", tag="ghost-0")


@breaks("every_task_is_accounted_for", "plain: is still STARTED")
def a_run_never_ends(story: Story) -> None:
    story.change_shown("plain", state="STARTED", verdict="started")


@breaks("every_task_is_accounted_for", "plain: is FAILURE, and has no reason")
def an_end_has_no_reason(story: Story) -> None:
    story.change_shown("plain", state="FAILURE")


@breaks("every_task_is_accounted_for", "plain: is SUCCESS, and yet has the reason 'worker_lost'")
def a_success_has_the_reason_of_a_failure(story: Story) -> None:
    story.change_shown("plain", reason="worker_lost")


@breaks("every_letter_is_where_its_run_is", "plain: died of worker_lost in generation 0, and has no letter of it")
def a_death_has_no_letter(story: Story) -> None:
    story.change_shown("plain", **LOST)


@breaks("every_letter_is_where_its_run_is", "failed: has 2 letters of ('p-failed', 0)")
def a_death_has_two_letters(story: Story) -> None:
    letter = story.runs["failed"].letters[0]
    story.change("failed", letters=[letter, replace(letter, pk=8)])


@breaks("every_letter_is_where_its_run_is", "failed: letter 7 of generation 0 is open, and the run has succeeded")
def a_letter_waits_after_the_success(story: Story) -> None:
    _change_letter(story, status="open")


@breaks("every_letter_has_its_message", "failed: letter 7 of generation 0 (failed) has no message")
def a_letter_without_its_message(story: Story) -> None:
    _change_letter(story, status="open", has_message=False)


@breaks("every_letter_is_where_its_run_is", "failed: letter 7 of generation 0 is still requeued, generation 1")
def a_letter_is_under_way_for_ever(story: Story) -> None:
    _change_letter(story, status="requeued")


@breaks("no_run_is_called_lost_that_had_ended", "the ledger says end by process 101 150 ms before it was killed")
def a_run_that_had_ended_is_called_lost(story: Story) -> None:
    story.kill(FIRST, after=LONG)
    end = story.record().ends["d-failed-1-0"]
    story.change_lines(lambda line: line.what is What.FAULT, at=end.at + LONG)
    story.change_shown("failed", **LOST)


@breaks("no_run_is_called_lost_that_had_ended", "the ledger says end by process 101 150 ms before it was killed")
def a_step_whose_next_one_was_sent_is_called_lost(story: Story) -> None:
    story.change_lines(of("failed", What.START), detail={"follows": "next"})
    story.tell(What.PUT, task_id="next", pid=FIRST)
    a_run_that_had_ended_is_called_lost(story)


@breaks("every_end_is_told_as_it_was", "has raised, and is told as REJECTED")
def a_retry_that_was_sent_is_told_as_rejected(story: Story) -> None:
    story.change_attempt("flaky", state="REJECTED", reason="rejected")


@breaks("no_run_is_called_lost_that_had_ended", "and was never killed")
def a_run_of_a_living_process_is_called_lost(story: Story) -> None:
    story.change_shown("plain", **{**LOST, "reason": "end_lost"})


@breaks("no_living_worker_is_called_lost", "plain: was reaped (worker_lost): worker 1 of boot boot lives")
def a_living_worker_is_called_lost(story: Story) -> None:
    story.audit.append(_reaped("plain"))


@breaks("every_start_is_told_once", "plain: generation 0, retries 0, delivery d-second (process 103) is missing")
def a_start_is_missing(story: Story) -> None:
    story.tell(What.START, pid=OTHER, task_id="plain", publication="p-plain", delivery="d-second", redelivered=True)


@breaks("every_start_is_told_once", "d-flaky-0-0 (process 101) is told 2 times")
def an_attempt_is_doubled(story: Story) -> None:
    run = story.runs["flaky"]
    story.change("flaky", attempts=[*run.attempts, *run.attempts])


@breaks("every_start_is_told_once", "is told as ('p-flaky', 0, 5)")
def an_attempt_is_told_as_another(story: Story) -> None:
    story.change_attempt("flaky", retries=5)


@breaks("every_end_is_told_as_it_was", "has end, and is told as STARTED")
def a_success_is_missing(story: Story) -> None:
    story.change_shown("plain", state="STARTED", verdict="started")


@breaks("every_end_is_told_as_it_was", "has raised, and is told as SUCCESS")
def a_failure_is_told_as_a_success(story: Story) -> None:
    story.change_attempt("failed", state="SUCCESS", reason="")


@breaks("every_end_is_told_as_it_was", "has raised Unlucky, and is told to have raised OSError")
def another_error_is_told(story: Story) -> None:
    story.change_attempt("flaky", exception_type="OSError")


@breaks("every_end_is_told_as_it_was", "has end, and is told as FAILURE")
def a_success_is_told_as_a_failure_though_all_was_sent(story: Story) -> None:
    story.change_shown("plain", state="FAILURE", reason="failed")


@breaks("nothing_is_told_that_never_was", "is told as SUCCESS, and the ledger knows no end")
def a_success_never_was(story: Story) -> None:
    story.drop_lines(of("plain", What.END))


@breaks("nothing_is_told_that_never_was", "is told as failed, and the ledger knows no end")
def a_failure_never_was(story: Story) -> None:
    story.drop_lines(lambda line: line.what is What.RAISED and line.delivery == "d-failed-0-0")


@breaks("nothing_is_told_that_never_was", "and the ledger knows no start")
def a_start_never_was(story: Story) -> None:
    story.drop_lines(of("plain", What.START))


@breaks("every_retry_was_sent", "flaky: retries 0 is told as retried, and nothing was sent")
def a_retry_was_never_sent(story: Story) -> None:
    story.drop_lines(lambda line: line.what is What.PUT and line.tag == "flaky-1")


@breaks("counters_equal_the_rows", "flaky: counts 3 starts, the ledger 2")
def starts_are_miscounted(story: Story) -> None:
    story.change("flaky", starts=3)


@breaks("counters_equal_the_rows", "recorder: counts 0 quarantined, and 1 are")
def something_is_quarantined(story: Story) -> None:
    story.quarantined = 1


@breaks("counters_equal_the_rows", "recorder: has dropped 3 events")
def something_was_dropped(story: Story) -> None:
    story.counted["dropped"] = 3


@breaks("nothing_starts_twice", "plain: generation 0, retries 0 was started by plain-0 in 101, plain-1 in 103")
def two_messages_of_one_publish_start(story: Story) -> None:
    story.tell(What.START, pid=OTHER, task_id="plain", publication="p-plain", delivery="d-second", tag="plain-1")


@breaks("nothing_starts_twice", "started by plain-0 in 101, plain-0 in 103")
def one_message_starts_twice(story: Story) -> None:
    story.tell(What.PUT_FAILED, task_id="plain", publication="p-plain", tag="plain-x")
    story.tell(What.START, pid=OTHER, task_id="plain", publication="p-plain", delivery="d-second", tag="plain-0")


@breaks("nothing_is_run_again_unasked", "failed: generation 1 runs by 0 decisions")
def a_run_again_has_no_decision(story: Story) -> None:
    story.audit.clear()


@breaks("nothing_is_run_again_unasked", "failed: chaos.tasks.slow runs again, and nobody has asked for it")
def the_app_itself_runs_again_what_is_not_idempotent(story: Story) -> None:
    story.audit = [replace(story.audit[0], by="")]


@breaks("one_decision_sends_once", "letter 7: 2 decisions have sent it, it was opened again 0 times")
def two_people_send_one_letter(story: Story) -> None:
    told = {"letter": 7, "by": "bob", "action": "requeue", "outcome": "sent"}
    story.tell(What.DECIDED, pid=10, task_id="failed", generation=2, detail=told)


@breaks("one_decision_sends_once", "failed: generation 1 was started by 2 sends: ['n1', 'n2']")
def one_generation_is_sent_twice(story: Story) -> None:
    facts: dict[str, Any] = {"task_id": "failed", "publication": "p-failed", "generation": 1}
    story.tell(What.START, pid=OTHER, **facts, delivery="d-again", tag="failed-9", nonce="n2")


@breaks("every_decision_is_written_down", "letter 7: generation 1 stands 0 times in the audit")
def a_decision_is_not_in_the_audit(story: Story) -> None:
    story.audit.clear()


@breaks("every_decision_is_written_down", "letter 7: generation 1 stands 2 times in the audit")
def a_decision_is_in_the_audit_twice(story: Story) -> None:
    story.audit *= 2


@breaks("the_hooks_are_quick", "hooks: p99 6.0 ms, expected at most 5.0 ms")
def hooks_are_slow(story: Story) -> None:
    for _ in range(5):
        spend(story, 6.0)


@breaks("the_hooks_are_quick", "plain: 300 ms in the app's code")
def one_hook_hangs(story: Story) -> None:
    spend(story, 300.0)


@breaks("no_task_fails_because_of_the_app", "a worker's log: django-taskops: end failed")
def a_hook_fails(story: Story) -> None:
    story.failed_hooks.append("django-taskops: end failed")


@breaks("no_task_fails_because_of_the_app", "plain: django_taskops.exceptions.TaskOpsError: oh")
def a_task_fails_of_an_error_of_the_app(story: Story) -> None:
    facts = {"exception_type": "django_taskops.exceptions.TaskOpsError", "exception_message": "oh"}
    story.change_shown("plain", state="FAILURE", reason="failed", verdict="failed", **facts)


@pytest.mark.parametrize(
    ("rule", "tampering", "sentence"),
    [(rule, each, sentence) for rule, found in tamperings.items() for each, sentence in found],
    ids=[f"{rule}: {each.__name__}" for rule, found in tamperings.items() for each, _ in found],
)
def test_a_rule_fails_where_it_is_broken(rule: str, tampering: Tampering, sentence: str) -> None:
    story = quiet()
    tampering(story)
    assert sentence in said(judged(story)[rule])


def test_every_rule_has_a_tampering() -> None:
    rules = {*RULES, *(rule for only in ONLY.values() for rule in only)}
    assert {rule.__name__ for rule in rules} == set(tamperings)


def test_all_rules_hold_where_nothing_was_tampered_with() -> None:
    assert not any(judged(quiet()).values())


def a_publish_that_was_refused_and_never_ran(story: Story) -> None:
    story.tell(What.REFUSED, task_id="ghost")


def an_end_just_before_the_kill(story: Story) -> None:
    """The body's last word, and 50 ms later the end of its process: nobody could have told."""
    end = story.record().ends["d-plain-0-0"]
    story.kill(FIRST)
    story.change_lines(lambda line: line.what is What.FAULT, at=end.at + SHORT)
    story.drop_lines(lambda line: line.at > end.at + SHORT and line.pid == FIRST)
    story.drop_lines(lambda line: line.task_id in ("flaky", "failed"))
    del story.runs["flaky"], story.runs["failed"]
    story.audit.clear()
    story.drop_lines(lambda line: line.what is What.DECIDED) if any(
        line.what is What.DECIDED for line in story.lines
    ) else None
    letter = Letter(pk=8, publication="p-plain", generation=0, status="open", reason="worker_lost")
    story.change_shown("plain", **LOST)
    story.change("plain", letters=[letter])


def an_end_between_the_line_of_the_kill_and_the_kill(story: Story) -> None:
    an_end_just_before_the_kill(story)
    end = story.record().ends["d-plain-0-0"]
    story.change_lines(lambda line: line.what is What.FAULT, at=end.at - MILLISECOND)


def an_end_before_a_kill_whose_dead_are_listed_with_their_worker(story: Story) -> None:
    an_end_just_before_the_kill(story)
    story.kill(FIRST, after=9 * LONG, kind="kill worker")


def an_end_of_a_process_that_is_frozen_and_then_killed(story: Story) -> None:
    an_end_just_before_the_kill(story)
    end = story.record().ends["d-plain-0-0"]
    story.change_lines(lambda line: line.what is What.FAULT, at=end.at + 9 * LONG)
    story.tell(What.FAULT, pid=1, detail={"kind": "SIGSTOP", "pids": [FIRST]})
    story.change_lines(lambda line: line.detail.get("kind") == "SIGSTOP", at=end.at + MILLISECOND)
    story.tell(What.MENDED, pid=1, after=99 * LONG, detail={"kind": "SIGSTOP", "pids": [FIRST]})


def a_step_whose_next_one_was_not_sent(story: Story) -> None:
    """A requeue of it goes on with what follows."""
    story.change_lines(of("plain", What.START), detail={"follows": "next"})
    letter = Letter(pk=8, publication="p-plain", generation=0, status="open", reason="worker_lost")
    story.change_shown("plain", **LOST)
    story.change("plain", letters=[letter])


def an_attempt_whose_retry_was_not_sent(story: Story) -> None:
    """Celery was about to: the broker delivers it again."""
    story.change_lines(of("flaky", What.RAISED), detail={"error": "Unlucky", "final": False})
    story.drop_lines(lambda line: line.task_id == "flaky" and (line.retries == 1 or line.tag == "flaky-1"))
    letter = Letter(pk=8, publication="p-flaky", generation=0, status="open", reason="worker_lost")
    run = story.runs["flaky"]
    story.change("flaky", shown=replace(run.attempts[0], **LOST), attempts=[], letters=[letter], starts=1)


def a_process_that_falls_with_the_redis_that_it_has_just_told(story: Story) -> None:
    end = story.record().ends["d-failed-1-0"]
    story.tell(What.FAULT, pid=1, detail={"kind": "stop Redis", "server": "redis"})
    story.kill(FIRST, after=LONG)
    letter = Letter(pk=9, publication="p-failed", generation=1, status="open", reason="worker_lost")
    story.change_shown("failed", **LOST)
    story.change("failed", letters=[replace(story.runs["failed"].letters[0], status="superseded"), letter])
    assert story.record().fell_with_redis(end)


def a_start_that_the_kill_has_kept_from_its_first_line(story: Story) -> None:
    run = story.runs["plain"]
    assert run.shown.started_at is not None
    story.drop_lines(lambda line: line.task_id == "plain" and line.what in (What.START, What.END))
    began = int(story.record().ns_of(run.shown.started_at))
    story.kill(OTHER)
    story.change_lines(lambda line: line.what is What.FAULT, at=began + SHORT)
    letter = Letter(pk=8, publication="p-plain", generation=0, status="open", reason="worker_lost")
    story.change_shown("plain", pid=OTHER, **LOST)
    story.change("plain", letters=[letter])


def a_start_of_a_process_that_is_frozen_before_its_first_line_and_killed_later(story: Story) -> None:
    a_start_that_the_kill_has_kept_from_its_first_line(story)
    killed = next(line.at for line in story.lines if line.what is What.FAULT)
    story.change_lines(lambda line: line.what is What.FAULT, at=killed + 9 * LONG)
    story.tell(What.FAULT, pid=1, detail={"kind": "SIGSTOP", "pids": [OTHER]})
    story.change_lines(lambda line: line.detail.get("kind") == "SIGSTOP", at=killed)
    story.tell(What.MENDED, pid=1, after=99 * LONG, detail={"kind": "SIGSTOP", "pids": [OTHER]})


def a_message_that_the_client_has_sent_twice(story: Story) -> None:
    """It did not learn whether the broker had taken the first."""
    story.tell(What.PUT_FAILED, task_id="plain", publication="p-plain", tag="plain-1")
    _second_delivery(story, tag="plain-1")


def a_message_that_the_broker_has_delivered_again(story: Story) -> None:
    _second_delivery(story, tag="plain-0", redelivered=True)


def a_hook_of_a_frozen_process(story: Story) -> None:
    story.tell(What.FAULT, pid=1, detail={"kind": "SIGSTOP", "pids": [OTHER]})
    spend(story, 900.0, pid=OTHER)
    story.tell(What.MENDED, pid=1, detail={"kind": "SIGSTOP", "pids": [OTHER]})


def a_killed_worker_that_is_called_lost(story: Story) -> None:
    story.kill(1, kind="kill worker")
    story.audit.append(_reaped("plain"))


@pytest.mark.parametrize(
    "story_of",
    [
        a_publish_that_was_refused_and_never_ran,
        an_end_just_before_the_kill,
        an_end_between_the_line_of_the_kill_and_the_kill,
        an_end_before_a_kill_whose_dead_are_listed_with_their_worker,
        an_end_of_a_process_that_is_frozen_and_then_killed,
        a_step_whose_next_one_was_not_sent,
        an_attempt_whose_retry_was_not_sent,
        a_process_that_falls_with_the_redis_that_it_has_just_told,
        a_start_that_the_kill_has_kept_from_its_first_line,
        a_start_of_a_process_that_is_frozen_before_its_first_line_and_killed_later,
        a_message_that_the_client_has_sent_twice,
        a_message_that_the_broker_has_delivered_again,
        a_hook_of_a_frozen_process,
        a_killed_worker_that_is_called_lost,
    ],
)
def test_what_nobody_could_have_done_better_is_no_finding(story_of: Tampering) -> None:
    story = quiet()
    story_of(story)
    assert not said([each for found in judged(story).values() for each in found])


def test_a_living_worker_may_be_called_lost_where_pauses_are_long() -> None:
    story = quiet()
    story.audit.append(_reaped("plain"))
    assert not any(judge(story.record(), story.tables(), Scenario.B).values())


def judged(story: Story) -> dict[str, list[Finding]]:
    return judge(story.record(), story.tables(), Scenario.A)


def _second_delivery(story: Story, **facts: Any) -> None:
    place: dict[str, Any] = {"task_id": "plain", "publication": "p-plain", "delivery": "d-second", **facts}
    start = story.tell(What.START, pid=OTHER, **place)
    story.tell(What.END, pid=OTHER, **place)
    run = story.runs["plain"]
    again = replace(run.shown, delivery="d-second", pid=OTHER)
    story.change("plain", starts=2, attempts=[again])
    assert start.delivery == "d-second"


def _change_letter(story: Story, **facts: object) -> None:
    story.change("failed", letters=[replace(story.runs["failed"].letters[0], **facts)])  # type: ignore[arg-type]


def _reaped(task_id: str) -> Audit:
    return Audit(
        action="reap", task_id=task_id, outcome="worker_lost", by="", object_id="1", details={"boot_id": "boot"}
    )
