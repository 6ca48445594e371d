"""The order in which the steps of a canvas would have run that wait in vain."""

from typing import Any

from django_taskops.capture.downstream import steps


def step(task_id: str, **options: Any) -> dict[str, Any]:
    return {"task": "shop.tasks.price", "options": {"task_id": task_id, **options}}


def ids(chain: list[Any], chord: Any = None) -> list[str]:
    return [task_id for task_id, _signature in steps(chain, chord)]


def test_the_next_step_stands_last_in_a_message() -> None:
    assert ids([step("third"), step("second")], step("body")) == ["second", "third", "body"]


def test_a_body_comes_after_all_the_members_that_name_it() -> None:
    """Before Celery 5.7 the members of a chord name it already where the chord itself has not been sent."""
    body = step("body", chain=[step("after the body")])
    members = [step("a", chord=body), step("b", chain=[step("after b")], chord=body)]
    chord = {"subtask_type": "chord", "options": {}, "kwargs": {"header": members, "body": body}}

    assert ids([chord]) == ["a", "b", "after b", "body", "after the body"]
    assert ids([{"subtask_type": "group", "options": {}, "kwargs": {"tasks": members}}]) == ids([chord])


def test_a_canvas_of_many_members_is_walked_once() -> None:
    body = step("body", chain=[step(f"step {number}") for number in range(500)])
    members = [step(f"member {number}", chord=body) for number in range(500)]
    chord = {"subtask_type": "chord", "options": {}, "kwargs": {"header": members, "body": body}}

    assert len(ids([chord])) == len(set(ids([chord]))) == 1001
