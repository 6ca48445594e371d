"""What real canvases leave in the tables, and what the page of each of their runs makes of it. See tests/admin/workflow
for the same shapes as rows."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from celery import chain, chord, group

from django_taskops.admin.workflow.rows import runs_of_workflow
from django_taskops.models import TaskRun
from django_taskops.recovery import requeue
from tests import tasks
from tests.admin.workflow.outlines import outline
from tests.lifecycle.cases import key, run_of
from tests.workers import Worker, eventually

ok: Any = tasks.succeed.si
bad: Any = tasks.fail.si
add: Any = tasks.add.si
body: Any = tasks.collect.s


def pair() -> list[Any]:
    return [add(1, 2), add(3, 4)]


def half() -> list[Any]:
    return [add(1, 2), bad()]


CANVASES: Mapping[str, tuple[Callable[[], Any], str]] = {
    "a chain": (lambda: chain(ok(), add(1, 2), ok()), "succeed > add > succeed"),
    "a chain whose second step fails": (
        lambda: chain(ok(), bad(), add(1, 2), ok()),
        "succeed > fail! > (add) > (succeed)",
    ),
    "a group": (lambda: group(half()), "group[add | fail!]"),
    "a chord": (lambda: chord(pair(), body()), "chord[add | add] > collect"),
    "a chord with a failed member": (lambda: chord(half(), body()), "chord[add | fail!] > (collect)"),
    "a chord in a chain": (
        lambda: chain(ok(), chord(pair(), body()), ok()),
        "succeed > chord[add | add] > collect > succeed",
    ),
    "a failed chord in a chain": (
        lambda: chain(ok(), chord(half(), body()), ok()),
        "succeed > chord[add | fail!] > (collect) > (succeed)",
    ),
    "a chord that a chain never comes to": (
        lambda: chain(bad(), chord(pair(), body()), ok()),
        "fail! > chord[(add) | (add)] > (collect) > (succeed)",
    ),
    "a group and what follows it": (
        lambda: group(pair()) | body() | ok(),
        "chord[add | add] > collect > succeed",
    ),
    "a group at the end of a chain": (lambda: chain(ok(), group(pair())), "succeed > group[add | add]"),
    "a chain in the header of a chord": (
        lambda: chord([chain(ok(), add(1, 2)), add(3, 4)], body()),
        "chord[succeed > add | add] > collect",
    ),
    "a chain in the header of a chord, failed": (
        lambda: chain(ok(), chord([chain(bad(), add(1, 2)), add(3, 4)], body())),
        "succeed > chord[fail! > (add) | add] > (collect)",
    ),
    "a group of chains": (
        lambda: group(chain(ok(), add(1, 2)), chain(ok(), bad(), add(1, 2))),
        "group[succeed > add | succeed > fail! > (add)]",
    ),
    "a group in the header of a chord": (
        lambda: chord([group(pair()), add(5, 6)], body()),
        "chord[add | add | add] > collect",
    ),
    "a chord in the header of a chord": (
        lambda: chord([chord(pair(), body()), add(5, 6)], body()),
        "chord[chord[add | add] > collect | add] > collect",
    ),
    "a chord in the header of a chord, failed": (
        lambda: chord([chord(half(), body()), add(5, 6)], body()),
        "chord[chord[add | fail!] > (collect) | add] > (collect)",
    ),
    "a chord whose body is a chord": (
        lambda: chord([ok()], chord(pair(), body())),
        "chord[succeed] > chord[add | add] > collect",
    ),
    "two callbacks": (
        lambda: ok().set(link=[add(1, 2), add(3, 4)]),
        "succeed > group[add | add]",
    ),
    "a callback for failures": (
        lambda: bad().set(link_error=[body()]),
        "fail! > group[collect]",
    ),
    "a step that is retried": (
        lambda: chain(ok(), tasks.flaky.si(key(), 2), ok()),
        "succeed > flaky > succeed",
    ),
    "a member that is retried": (
        lambda: chord([tasks.flaky.si(key(), 2), add(1, 2)], body()),
        "chord[flaky | add] > collect",
    ),
    "a step that is replaced": (
        lambda: chain(ok(), tasks.replace_by_add.si(1, 2), ok()),
        "succeed > add > succeed",
    ),
    "a member that is replaced": (
        lambda: chord([tasks.replace_by_add.si(1, 2), add(1, 2)], body()),
        "chord[add | add] > collect",
    ),
}


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_each_canvas_is_told_from_its_runs(worker: Worker) -> None:
    published = {name: publish().apply_async() for name, (publish, _outline) in CANVASES.items()}
    expected = {name: shape for name, (_publish, shape) in CANVASES.items()}

    def told() -> bool:
        found = {name: seen_from(_some_run(result)) for name, result in published.items()}
        assert {name: shape for name, shape in found.items() if shape != expected[name]} == {}
        return True

    eventually(told, timeout=60)
    for name, result in published.items():
        seen = {seen_from(run.task_id) for run in _others(_some_run(result))}
        assert seen == {expected[name]}, name


def seen_from(task_id: str) -> str:
    return outline(runs_of_workflow(run_of(task_id)).records)


def _some_run(result: Any) -> str:
    """Of a group, its first member."""
    return str(result.results[0].id if getattr(result, "results", None) else result.id)


def _others(task_id: str) -> list[TaskRun]:
    found = runs_of_workflow(run_of(task_id)).records
    return list(TaskRun.objects.filter(pk__in=[record.pk for record in found]))


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_a_chain_that_was_requeued_is_told_as_if_it_had_never_failed(worker: Worker) -> None:
    name = key()
    last: Any = chain(ok(), tasks.broken_until_healed.si(name), add(1, 2)).apply_async()
    eventually(lambda: seen_from(last.id) == "succeed > broken_until_healed! > (add)")
    tasks.heal(name)
    requeue(run_of(last.parent.id).dead_letters.get())

    eventually(lambda: run_of(last.id).state == "SUCCESS")
    eventually(lambda: seen_from(last.id) == "succeed > broken_until_healed > add")
