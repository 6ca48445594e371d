"""Before a person confirms, sentences say what will run next and what has run already; what can't go on is refused."""

import pytest
from celery import chain, chord

from django_taskops.exceptions import NotRequeueable
from django_taskops.models import Chord, DeadLetter
from django_taskops.recovery import preflight, requeue
from tests.workers import eventually
from tests.workflows import tasks
from tests.workflows.workflow import SECONDS, Workflow, settled

pytestmark = [
    pytest.mark.parametrize("database", ["default"], indirect=True),
    pytest.mark.parametrize("results", ["redis"], indirect=True),
]


def test_the_later_steps_of_a_chain(flow: Workflow) -> None:
    flow.breaks("a")
    chain(flow.a, flow.step("k", tasks.killed), chord([flow.m, flow.n], flow.body), flow.tail).delay()

    assert notes_of(flow.letter("a")) == ["Then runs: killed, node, node, node, node (5 later steps of the chain)."]


def test_the_members_of_a_chord_that_are_dead(flow: Workflow) -> None:
    flow.breaks("a", "c")
    chord([chain(flow.a, flow.b), flow.c, flow.d], flow.step("body", tasks.limited)).delay()
    flow.letter("c")
    letter = flow.letter("a")
    settled(Chord.objects.exists)

    assert notes_of(letter) == [
        "Then runs: node (1 later step of the chain).",
        "This is 1 of 2 failed members of a chord of 3; its body limited runs when all have succeeded.",
    ]


def test_the_errback_that_has_run(flow: Workflow) -> None:
    flow.breaks("a")
    flow.a.on_error(tasks.errback.si()).delay()
    letter = flow.letter("a")

    (note,) = notes_of(letter)
    assert note == f"The errback errback already ran at {letter.died_at:%H:%M}, and runs again if the task fails again."


def test_a_chord_that_nobody_here_knows_is_refused_before_anything_is_sent(flow: Workflow) -> None:
    flow.breaks("a")
    chord([flow.a, flow.b], flow.body).delay()
    letter = flow.letter("a")
    settled(Chord.objects.exists)
    Chord.objects.all().delete()

    _refused(letter, "chord_unknown")
    flow.heal("a")
    requeue(letter, force=True)
    settled(lambda: flow.state("a") == "SUCCESS")


def test_a_canvas_that_only_a_worker_can_read_is_refused_unless_forced(flow: Workflow) -> None:
    flow.breaks("a")
    chord([flow.a.set(serializer="pickle"), flow.b], flow.body).delay()
    letter = flow.letter("a")
    settled(Chord.objects.exists)

    _refused(letter, "canvas_unreadable")
    flow.heal("a")
    requeue(letter, force=True)
    eventually(lambda: flow.state("body") == "SUCCESS", SECONDS)  # the worker keeps house by itself: it may unpickle
    assert flow.run("body").result == "body(['a()', 'b()'])"


def notes_of(letter: DeadLetter) -> list[str]:
    return preflight.notes([letter])[letter.pk]


def _refused(letter: DeadLetter, code: str) -> None:
    with pytest.raises(NotRequeueable) as refused:
        requeue(letter)
    letter.refresh_from_db()
    assert (refused.value.code, letter.status) == (code, "open")
