"""Any canvas with any failures, put back until it is healed, ends as it does without failures. More examples by
TASKOPS_TEST_CANVASES=200."""

import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import current_app
from celery.result import GroupResult
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

from django_taskops.exceptions import NotRequeueable
from django_taskops.models import DeadLetter, TaskRun
from django_taskops.recovery import requeue
from django_taskops.recovery.joins import Joins
from django_taskops.recovery.outbox import carry_out
from django_taskops.states import LetterStatus
from tests.workflows.canvases import built, canvases, names, size
from tests.workflows.workflow import Workflow

pytestmark = pytest.mark.parametrize("database", ["default"], indirect=True)

EXAMPLES = int(os.environ.get("TASKOPS_TEST_CANVASES", "6"))
SECONDS = 30


def test_any_canvas_heals(flow: Workflow) -> None:
    @seed(int(os.environ.get("TASKOPS_TEST_SEED", "7")))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(canvas=canvases(), data=st.data())
    def heals(canvas: Any, data: st.DataObject) -> None:
        tasks = [f"t{number}" for number in range(size(canvas))]
        broken = data.draw(st.lists(st.sampled_from(tasks), min_size=1, max_size=4, unique=True))
        order = data.draw(st.integers(0, 2**16))
        whole, damaged = Workflow(), Workflow()
        damaged.breaks(*broken)
        note(f"{canvas} broken: {broken}")
        expected = _ended(_published(canvas, whole), whole, lambda: None)
        found = _ended(_published(canvas, damaged), damaged, _healer(damaged, random.Random(order)))
        assert found == expected, f"{canvas} broken: {broken}"
        assert all(damaged.succeeded(name) == 1 for name in tasks), f"{canvas} broken: {broken}"

    heals()


def _published(canvas: Any, flow: Workflow) -> Any:
    name = names()
    return built(canvas, lambda: flow.step(next(name))).apply_async()


def _healer(flow: Workflow, order: random.Random) -> Callable[[], None]:
    """Puts back one letter of the workflow, whichever."""

    def heal() -> None:
        letters = DeadLetter.objects.filter(status=LetterStatus.OPEN, run__kwargs__name__startswith=flow.key)
        found = list(letters.select_related("run"))
        if not found:
            return
        letter = order.choice(found)
        flow.heal(letter.run.kwargs["name"].rpartition("-")[2])
        try:
            requeue(letter)
        except NotRequeueable as refusal:
            if refusal.code != "chord_unknown":  # its publisher has not told it yet
                raise

    return heal


def _ended(result: Any, flow: Workflow, heal: Callable[[], None]) -> dict[str, Any]:
    """The results of all tasks by name, once all have succeeded; and what those who wait for the whole are given."""
    deadline = time.monotonic() + SECONDS
    joins = Joins()
    while True:
        heal()
        joins()
        carry_out()
        runs = TaskRun.objects.filter(kwargs__name__startswith=flow.key)
        ended = {run.kwargs["name"].rpartition("-")[2]: run for run in runs}
        values = _value(result)
        if values is not None and all(run.state == "SUCCESS" for run in ended.values()):
            return {"whole": values} | {name: run.result for name, run in ended.items()}
        if time.monotonic() > deadline:
            states = {name: (run.state, run.reason, run.generation) for name, run in ended.items()}
            pytest.fail(f"not healed within {SECONDS} s: {states}, {values}")
        time.sleep(0.02)


def _value(result: Any) -> Any:
    """What a fresh poller reads; None where it would wait."""
    if isinstance(result, GroupResult):
        values = [_value(each) for each in result.results or ()]
        return None if None in values else values
    meta = current_app.backend.get_task_meta(result.id, cache=False)
    return meta["result"] if meta["status"] == "SUCCESS" else None
