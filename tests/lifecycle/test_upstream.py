"""What a failure keeps from ever running is shown under the ids that its canvas has frozen."""

from functools import partial
from typing import Any

import pytest
from celery import chain, chord, group, signature

from django_taskops.models import TaskRun
from django_taskops.recovery import requeue
from tests import tasks
from tests.lifecycle import tasks as more
from tests.lifecycle.cases import found, key, run_of, shows
from tests.workers import Worker, eventually

CHAIN = "a step before it in the chain failed"
CHORD = "a member of its chord failed"


def test_the_rest_of_a_chain(worker: Worker) -> None:
    last = chain(tasks.succeed.si("a"), tasks.fail.si("no stock"), tasks.succeed.si("b"), tasks.add.si(1, 2)).delay()
    ids = _ids(last)

    eventually(partial(found, ids[-1], CHAIN))
    assert [run_of(task_id).state for task_id in ids[:2]] == ["SUCCESS", "FAILURE"]
    for task_id in ids[2:]:
        assert shows(run_of(task_id), CHAIN)
    never = run_of(last.id)
    assert (never.task_name, never.args) == ("tests.tasks.add", [1, 2])
    assert (never.parent_id, never.root_id) == (ids[1], ids[0])
    assert "no stock" in never.exception_message
    assert not never.attempts.exists()


def test_what_stands_behind_a_chain_nested_and_grouped(worker: Worker) -> None:
    ends = group(tasks.add.si(1, 2), tasks.add.si(3, 4))
    result: Any = chain(tasks.fail.si(), tasks.succeed.si(), chain(tasks.succeed.si("c"), ends)).delay()

    members = [member.id for member in result.results]
    for task_id in [*members, result.parent.id]:
        eventually(partial(found, task_id, CHAIN))


def test_the_body_of_a_chord_and_what_follows_it(worker: Worker) -> None:
    """Said once, though two members fail."""
    header = [tasks.add.s(1, 2), tasks.fail.s("first"), tasks.fail.s("second")]
    last = (chord(header, tasks.collect.s()) | tasks.succeed.si("after")).delay()

    eventually(partial(found, last.id, CHORD))
    assert shows(TaskRun.objects.get(task_name="tests.tasks.collect"), CHORD)
    assert TaskRun.objects.filter(reason="upstream_failed").count() == 2


@pytest.mark.parametrize("step", [tasks.hard_limit, tasks.kill_self, tasks.ignore, more.reject_early])
@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_whatever_ends_a_step_ends_its_chain(worker: Worker, step: Any) -> None:
    last = chain(step.si(), tasks.succeed.si()).delay()

    eventually(partial(found, last.id, CHAIN))


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_a_step_that_nobody_knows_or_that_is_revoked_ends_its_chain(worker: Worker) -> None:
    unknown = signature("tests.tasks.nowhere", immutable=True)
    after_unknown = chain(unknown, tasks.succeed.si()).delay()
    after_expired = chain(tasks.succeed.si().set(expires=0.001), tasks.succeed.si()).delay()

    for last in (after_unknown, after_expired):
        eventually(partial(found, last.id, CHAIN))


def test_a_step_that_heals_goes_on_to_what_was_given_up(worker: Worker) -> None:
    name = key()
    last: Any = chain(tasks.broken_until_healed.si(name), tasks.add.si(1, 2)).delay()
    eventually(partial(found, last.id, CHAIN))
    tasks.heal(name)
    requeue(run_of(last.parent.id).dead_letters.get())

    eventually(lambda: run_of(last.id).state == "SUCCESS")
    assert [attempt.reason for attempt in run_of(last.id).attempts.all()] == ["upstream_failed"]
    assert run_of(last.id).starts() == 1


def _ids(last: Any) -> list[str]:
    """Of a chain, its first step first."""
    ids = []
    while last is not None:
        ids.append(last.id)
        last = last.parent
    return ids[::-1]


def test_secrets_in_the_arguments_of_what_never_ran_are_masked(worker: Worker) -> None:
    """The result of the step before, which never came, would be the first argument."""
    last = chain(tasks.fail.si(), more.log_in.s("hunter2")).delay()
    body = chord([tasks.fail.s()], more.log_in.s("hunter2")).delay()

    for result in (last, body):
        eventually(partial(found, result, CHAIN))
        assert run_of(result).args == ["<the result before>", "[redacted]"]


def test_a_result_that_the_next_step_can_not_be_given_ends_the_chain(worker: Worker) -> None:
    taken = chain(tasks.return_unserializable.s(), tasks.succeed.s(), tasks.succeed.si("last")).delay()
    not_asked_for = chain(tasks.return_unserializable.s(), tasks.succeed.si("runs")).delay()

    eventually(partial(found, taken, CHAIN))
    eventually(lambda: run_of(not_asked_for).state == "SUCCESS")
    assert not run_of(not_asked_for).attempts.exists()


def test_a_step_that_can_not_be_sent_on_ends_the_chain_and_is_a_failure(worker: Worker) -> None:
    """Celery sends the next step itself, when the body has returned: here with arguments that do not fit."""
    last: Any = chain(tasks.succeed.s(), more.two_arguments.s(), tasks.succeed.si("last")).delay()
    linked = tasks.succeed.apply_async(link=more.two_arguments.s())

    eventually(partial(found, last, CHAIN))
    eventually(partial(found, last.parent, CHAIN))
    for result in (last.parent.parent, linked):
        eventually(partial(found, result, "it returns, and what follows can't be published"))
