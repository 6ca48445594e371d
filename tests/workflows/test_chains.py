"""After the requeue of a step its chain goes on, under the ids that it has had from the start."""

from typing import Any

import pytest
from celery import chain, chord, exceptions, group

from tests.workflows import tasks
from tests.workflows.workflow import Workflow, result_of, settled

pytestmark = pytest.mark.parametrize("database", ["default"], indirect=True)


@pytest.mark.parametrize("broken", ["a", "b", "c"])
def test_the_steps_behind_run_once_with_the_right_input(flow: Workflow, broken: str) -> None:
    flow.breaks(broken)
    last = chain(flow.a, flow.b, flow.c).delay()
    flow.requeue(broken)

    settled(lambda: flow.state("c") == "SUCCESS")
    assert result_of(last.id) == "c(b(a()))"
    assert [flow.succeeded(name) for name in "abc"] == [1, 1, 1]
    assert flow.run("c").task_id == last.id


def test_what_was_given_up_waits_again_and_is_given_up_again(flow: Workflow) -> None:
    flow.breaks("a")
    chain(flow.a, flow.b, flow.c).delay()
    settled(lambda: (flow.run("b").reason, flow.run("c").reason) == ("upstream_failed", "upstream_failed"))
    flow.hold("a")
    flow.requeue("a")

    waiting = [(run.state, run.reason, run.exception_message) for run in (flow.run("b"), flow.run("c"))]
    assert waiting == [("PENDING", "", "")] * 2
    flow.breaks("b")
    flow.let_go("a")
    settled(lambda: (flow.run("b").reason, flow.run("c").reason) == ("failed", "upstream_failed"))


def test_whoever_waits_from_now_on_is_given_the_new_result(flow: Workflow) -> None:
    flow.breaks("a")
    last = chain(flow.a, flow.b).delay()
    flow.letter("a")
    flow.hold("a")
    flow.requeue("a")

    with pytest.raises(exceptions.TimeoutError):
        result_of(last.id, timeout=0.5)
    flow.let_go("a")
    assert result_of(last.id) == "b(a())"


def test_a_nested_chain_in_a_group_with_immutable_steps(flow: Workflow) -> None:
    flow.breaks("b")
    flat = chain(flow.a, chain(flow.b, flow.c.set(immutable=True)), flow.d)
    ends: Any = group(flat, flow.e).delay()
    flow.requeue("b")

    settled(lambda: flow.state("d") == "SUCCESS")
    assert [result_of(end.id) for end in ends.results] == ["d(c())", "e()"]
    assert [flow.succeeded(name) for name in "abcde"] == [1] * 5


def test_members_of_a_group_are_put_back_one_by_one(flow: Workflow) -> None:
    flow.breaks("a", "b")
    members: Any = group(flow.a, flow.b, flow.c).delay()
    flow.letter("b")
    flow.requeue("a")

    settled(lambda: flow.state("a") == "SUCCESS")
    assert flow.state("b") == "FAILURE"
    flow.requeue("b")
    settled(lambda: flow.state("b") == "SUCCESS")
    assert [result_of(member.id) for member in members.results] == ["a()", "b()", "c()"]


def test_callbacks_of_a_success_and_of_a_failure(flow: Workflow) -> None:
    """The errback runs at each failure, the callback at the one success."""
    flow.breaks("a")
    broken = flow.a.on_error(flow.step("e", tasks.errback))
    broken.link(flow.linked)
    last = chain(broken, flow.b).delay()
    flow.requeue("a")

    settled(lambda: flow.state("b") == flow.state("linked") == "SUCCESS")
    assert result_of(last.id) == "b(a())"
    assert flow.run("linked").result == "linked(a())"
    assert flow.succeeded("linked") == 1


@pytest.mark.parametrize("broken", ["a", "m", "body", "tail"])
def test_a_chord_as_its_middle_step(flow: Workflow, broken: str) -> None:
    flow.breaks(broken)
    last = chain(flow.a, chord([flow.m, flow.n], flow.body), flow.tail).delay()
    flow.requeue(broken)

    settled(lambda: flow.state("tail") == "SUCCESS")
    assert result_of(last.id) == "tail(body(['m(a())', 'n(a())']))"
    assert [flow.succeeded(name) for name in ("a", "m", "n", "body", "tail")] == [1] * 5


@pytest.mark.parametrize("broken", ["a", "b", "r"])
def test_a_step_that_replaces_itself(flow: Workflow, broken: str) -> None:
    flow.breaks(broken)
    last: Any = chain(flow.a, flow.step("r", tasks.replaced), flow.b).delay()
    flow.requeue(broken)

    settled(lambda: flow.state("b") == "SUCCESS")
    assert result_of(last.id) == "b(r(a()))"
    assert [flow.succeeded(name) for name in "arb"] == [1, 1, 1]
