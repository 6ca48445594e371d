"""The results of a chord's members are kept once one of them has failed, and what is lost is named before anything is
sent."""

from typing import Any

import pytest
from celery import chord, current_app

from django_taskops.exceptions import NotRequeueable
from django_taskops.models import Chord, DeadLetter
from django_taskops.recovery import requeue
from tests.workflows.workflow import Workflow, result_of, settled

pytestmark = pytest.mark.parametrize("database", ["default"], indirect=True)


def test_they_outlive_the_result_backend(flow: Workflow) -> None:
    flow.breaks("a")
    last: Any = chord([flow.a, flow.b], flow.body).delay()
    settled(lambda: Chord.objects.get(group_id=last.parent.id).results.count() == 1)
    current_app.AsyncResult(flow.run("b").task_id).forget()
    flow.requeue("a")

    settled(lambda: flow.state("body") == "SUCCESS")
    assert result_of(last.id) == "body(['a()', 'b()'])"


def test_a_member_whose_result_is_lost_is_named_and_may_run_again(flow: Workflow) -> None:
    flow.breaks("a")
    lost = flow.step("b").set(ignore_result=True)
    chord([flow.a, lost], flow.body).delay()
    letter = flow.letter("a")
    settled(lambda: Chord.objects.get(group_id=flow.run("a").group_id).lost == [flow.run("b").task_id])
    flow.heal("a")

    with pytest.raises(NotRequeueable) as refused:
        requeue(letter)
    assert refused.value.code == "chord_results_lost"
    assert flow.run("b").task_id in refused.value.detail
    assert DeadLetter.objects.get(pk=letter.pk).status == "open"

    again = flow.run("b").task_id
    flow.step("b").apply_async(task_id=again)
    settled(lambda: flow.succeeded("b") == 2 and flow.state("b") == "SUCCESS")
    requeue(letter, force=True)
    settled(lambda: flow.state("body") == "SUCCESS")
    assert flow.run("body").result == "body(['a()', 'b()'])"
