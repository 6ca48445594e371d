"""A chord whose member has failed is joined by this app: its body runs once, with the results in header order."""

from typing import Any

import pytest
from celery import chain, chord, current_app, exceptions, group

from django_taskops.models import OutboxEntry, OutboxKind
from django_taskops.recovery import joins, requeue
from tests.workflows import tasks
from tests.workflows.workflow import Workflow, result_of, settled

pytestmark = pytest.mark.parametrize("database", ["default"], indirect=True)


@pytest.mark.parametrize("broken", ["a", "ba", "abc"])
def test_members_put_back_in_any_order(flow: Workflow, broken: str) -> None:
    flow.breaks(*broken)
    last = (chord([flow.a, flow.b, flow.c], flow.body) | flow.tail).delay()
    flow.requeue(*broken)

    settled(lambda: flow.state("tail") == "SUCCESS")
    assert result_of(last.id) == "tail(body(['a()', 'b()', 'c()']))"
    assert [flow.succeeded(name) for name in ("a", "b", "c", "body", "tail")] == [1] * 5


def test_members_put_back_while_others_run(flow: Workflow) -> None:
    flow.breaks("a")
    flow.hold("b")
    last = chord([flow.a, flow.b], flow.body).delay()
    flow.requeue("a")
    settled(lambda: flow.state("a") == "SUCCESS")
    flow.let_go("b")

    settled(lambda: flow.state("body") == "SUCCESS")
    assert result_of(last.id) == "body(['a()', 'b()'])"
    assert flow.succeeded("body") == 1


def test_whoever_waits_from_now_on_is_given_the_new_result(flow: Workflow) -> None:
    """From the last requeue on; before that the chord is still a failure."""
    flow.breaks("a", "b")
    last = (chord([flow.a, flow.b], flow.body) | flow.tail).delay()
    flow.letter("b")
    flow.requeue("a")
    with pytest.raises(exceptions.ChordError):
        result_of(last.id)
    assert flow.run("body").reason == "upstream_failed"
    flow.hold("b")
    flow.requeue("b")

    with pytest.raises(exceptions.TimeoutError):
        result_of(last.id, timeout=0.5)
    assert (flow.state("body"), flow.state("tail")) == ("PENDING", "PENDING")
    flow.let_go("b")
    assert result_of(last.id) == "tail(body(['a()', 'b()']))"


def test_a_member_that_fails_later_and_one_that_fails_again(flow: Workflow) -> None:
    flow.breaks("a", "b")
    flow.hold("b")
    last = chord([flow.a, flow.b, flow.c], flow.body).delay()
    flow.letter("b")
    flow.requeue("a")
    settled(lambda: flow.state("a") == "SUCCESS")
    flow.breaks("b")
    requeue(flow.letter("b"))
    settled(lambda: flow.run("b").generation == 1 and flow.state("b") == "FAILURE")
    settled(lambda: flow.run("body").reason == "upstream_failed")
    settled(lambda: current_app.AsyncResult(last.id).state == "FAILURE")
    flow.let_go("b")
    flow.requeue("b")

    settled(lambda: flow.state("body") == "SUCCESS")
    assert result_of(last.id) == "body(['a()', 'b()', 'c()'])"
    assert flow.succeeded("body") == 1


def test_a_body_that_was_sent_twice_runs_once(flow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a crash between the publish and the commit that says so."""
    flow.breaks("a")
    last = chord([flow.a, flow.b], flow.body).delay()
    flow.hold("body")
    flow.requeue("a")
    settled(lambda: flow.state("body") == "STARTED")
    monkeypatch.setattr(joins, "_was_sent", lambda *_: False)
    joins.send_body(OutboxEntry.objects.get(kind=OutboxKind.CHORD))
    settled(lambda: flow.run("body").attempts.filter(reason="duplicate").exists())
    flow.let_go("body")

    settled(lambda: flow.state("body") == "SUCCESS")
    assert result_of(last.id) == "body(['a()', 'b()'])"
    assert flow.succeeded("body") == 1


@pytest.mark.parametrize("kind", ["limited", "killed"])
def test_hard_limits_and_killed_processes(flow: Workflow, kind: str) -> None:
    flow.breaks("b")
    last = chord([flow.a, flow.step("b", getattr(tasks, kind))], flow.body).delay()
    flow.requeue("b")

    settled(lambda: flow.state("body") == "SUCCESS")
    assert result_of(last.id) == "body(['a()', 'b()'])"


def test_the_body_itself(flow: Workflow) -> None:
    flow.breaks("a", "body")
    last = chord([flow.a, flow.b], flow.body).delay()
    flow.requeue("a")
    flow.requeue("body")

    settled(lambda: flow.state("body") == "SUCCESS")
    assert result_of(last.id) == "body(['a()', 'b()'])"
    assert flow.run("body").generation == 1


@pytest.mark.parametrize("broken", ["a", "b", "c", "abc"])
def test_a_chain_in_the_header(flow: Workflow, broken: str) -> None:
    flow.breaks(*broken)
    last = chord([chain(flow.a, flow.b), flow.c], flow.body).delay()
    for name in broken:
        flow.requeue(name)

    settled(lambda: flow.state("body") == "SUCCESS")
    assert result_of(last.id) == "body(['b(a())', 'c()'])"
    assert [flow.succeeded(name) for name in ("a", "b", "c", "body")] == [1] * 4


@pytest.mark.parametrize("broken", ["a", "b", "inner", "c"])
def test_a_chord_in_the_header(flow: Workflow, broken: str) -> None:
    flow.breaks(broken)
    last = chord([chord([flow.a, flow.b], flow.inner), flow.c], flow.body).delay()
    flow.requeue(broken)

    settled(lambda: flow.state("body") == "SUCCESS")
    assert result_of(last.id) == "body([\"inner(['a()', 'b()'])\", 'c()'])"
    assert [flow.succeeded(name) for name in ("a", "b", "c", "inner", "body")] == [1] * 5


@pytest.mark.parametrize("broken", ["a", "x"])
def test_a_chord_of_groups(flow: Workflow, broken: str) -> None:
    """One is flattened by Celery, the other ends a chain: its results are a list of their own."""
    flow.breaks(broken)
    ends = chain(flow.a, group(flow.x, flow.y))
    last = chord([group(flow.b, flow.c), ends], flow.body).delay()
    flow.requeue(broken)

    settled(lambda: flow.state("body") == "SUCCESS")
    assert flow.succeeded("body") == 1
    assert "x(a())" in result_of(last.id)


@pytest.mark.parametrize("broken", ["a", "x", "y"])
@pytest.mark.parametrize("shape", ["chord", "group", "chain"])
def test_a_body_that_is_a_canvas(flow: Workflow, broken: str, shape: str) -> None:
    flow.breaks(broken)
    build: Any = {"chord": chord, "group": group, "chain": chain}[shape]
    body = chord([flow.x, flow.y], flow.last) if shape == "chord" else build(flow.x, flow.y)
    chord([flow.a, flow.b], body).delay()
    flow.requeue(broken)

    last = {"chord": "last", "group": "y", "chain": "y"}[shape]
    settled(lambda: flow.state(last) == "SUCCESS" and flow.state("x") == "SUCCESS")
    assert flow.run("x").result == "x(['a()', 'b()'])"
    assert [flow.succeeded(name) for name in "abxy"] == [1] * 4
    if shape == "chord":
        assert flow.succeeded("last") == 1


@pytest.mark.parametrize("broken", ["a", "r"])
def test_a_member_that_replaces_itself(flow: Workflow, broken: str) -> None:
    flow.breaks(broken)
    last = chord([flow.a, flow.step("r", tasks.replaced)], flow.body).delay()
    flow.requeue(broken)

    settled(lambda: flow.state("body") == "SUCCESS")
    assert result_of(last.id) == "body(['a()', 'r()'])"
