"""The workflow on the page of a run: what it shows and what it costs."""

from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from django_taskops.admin.workflow import rows
from django_taskops.models import Chord, TaskRun
from tests.admin.conftest import LogIn
from tests.admin.pages import Page, content
from tests.admin.queries import statements
from tests.admin.workflow.outlines import outline
from tests.factories import TaskRunFactory

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def address(run: TaskRun) -> str:
    return reverse("admin:taskops_taskrun_change", args=[run.pk])


def pictures(page: Page) -> list[dict[str, str | None]]:
    return [attrs for attrs in page.all("svg") if attrs.get("role") == "group"]


def chain(*names: str, **fields: Any) -> list[TaskRun]:
    runs: list[TaskRun] = []
    for name in names:
        before = runs[-1].task_id if runs else ""
        root = {"root_id": runs[0].task_id if runs else name}
        runs.append(TaskRunFactory(task_id=name, task_name=f"shop.{name}", parent_id=before, **{**root, **fields}))
    return runs


def never_ran(name: str, cause: TaskRun, **fields: Any) -> TaskRun:
    run: TaskRun = TaskRunFactory(
        task_name=name,
        state="FAILURE",
        reason="upstream_failed",
        parent_id=cause.task_id,
        **{"root_id": cause.root_id, **fields},
    )
    return run


def chord_of(size: int, group: str) -> TaskRun:
    """As it is published by itself: each member is a root of its own."""
    members = [
        TaskRun(
            task_id=f"{group}-{index}",
            root_id=f"{group}-{index}",
            task_name="shop.total",
            group_id=group,
            group_index=index,
            state="FAILURE" if index == 3 else "SUCCESS",
        )
        for index in range(size)
    ]
    TaskRun.objects.bulk_create(members)
    first: TaskRun = TaskRun.objects.get(task_id=f"{group}-0")
    never_ran("shop.report", TaskRun.objects.get(task_id=f"{group}-3"), group_id=group)
    return first


def test_a_run_by_itself_has_no_picture(desk: Client) -> None:
    page = Page(desk.get(address(TaskRunFactory(root_id="", task_id="alone"))))

    assert pictures(page) == []
    assert "The same as a list" not in page.text


def test_the_runs_of_a_chain_are_linked_and_the_present_one_is_named(desk: Client) -> None:
    first, second, third = chain("import", "price", "invoice")
    page = Page(desk.get(address(second)))

    assert {address(first), address(third)} <= set(page.links())
    assert address(second) not in page.links()
    assert "shop.price (this run)" in page.text
    assert [attrs.get("aria-current") for attrs in page.all("strong") if "aria-current" in attrs] == ["page"]


def test_what_failed_and_what_never_ran_is_said_in_words(desk: Client) -> None:
    first = TaskRunFactory(succeeded=True, task_id="a", root_id="a")
    second = TaskRunFactory(exhausted=True, task_name="shop.price", parent_id="a", root_id="a")
    never_ran("shop.invoice", second)
    page = Page(desk.get(address(first)))

    assert "3 runs: 1 failed, 1 never ran, 1 succeeded" in page.text
    assert "Failed · SupplierDown" in page.text
    assert "Never ran shop.invoice" in page.text


def test_the_picture_has_a_name_and_a_description_and_is_a_list_too(desk: Client) -> None:
    group = chord_of(4, "g")
    page = Page(desk.get(address(group)))
    ids = {attrs.get("id") for _tag, attrs in page.tags}

    assert len(pictures(page)) == 2
    for svg in pictures(page):
        assert {svg["aria-labelledby"], svg["aria-describedby"]} <= ids
    text = page.text.partition("The same as a list")[2]
    assert "Chord of 4 members" in text
    assert text.index("#0") < text.index("Failed shop.total #3") < text.index("Never ran shop.report")


def test_many_members_are_folded_and_each_fold_leads_to_their_list(desk: Client) -> None:
    response = desk.get(address(chord_of(100, "all of/them")))
    page = Page(response)
    folded = reverse("admin:taskops_taskrun_changelist") + "?group_id=all+of%2Fthem&state=SUCCESS"

    assert "99 succeeded" in page.text
    assert folded in page.links()
    assert content(response).count("<rect") < 20
    assert "99 task runs" in Page(desk.get(folded)).text


def test_members_with_other_roots_and_nested_groups_are_found(database: str) -> None:
    """A chord in the header of a chord, published by itself: five roots."""
    TaskRunFactory(task_id="a", root_id="a", group_id="in", group_index=0)
    TaskRunFactory(task_id="b", root_id="b", group_id="in", group_index=1)
    TaskRunFactory(task_id="c", root_id="b", parent_id="b", group_id="out", group_index=0)
    TaskRunFactory(task_id="d", root_id="d", group_id="out", group_index=1)
    TaskRunFactory(task_id="e", root_id="d", parent_id="d", group_id="out")
    TaskRunFactory(task_id="f", root_id="f")

    for task_id in "abcde":
        found = rows.runs_of_workflow(TaskRun.objects.get(task_id=task_id))
        assert sorted(record.task_id for record in found.records) == list("abcde")
        assert not found.more
        assert not found.deeper


def test_a_body_whose_message_does_not_name_its_group_is_known_from_the_publisher_of_the_chord(database: str) -> None:
    """As Celery sends it before 5.7: here a chord whose body is a chord. Both end with one task."""
    TaskRunFactory(succeeded=True, task_id="a", root_id="a", task_name="a", group_id="out", group_index=0)
    TaskRunFactory(succeeded=True, task_id="b", root_id="a", task_name="b", parent_id="a", group_id="in", group_index=0)
    TaskRunFactory(succeeded=True, task_id="c", root_id="a", task_name="c", parent_id="a", group_id="in", group_index=1)
    body = TaskRunFactory(succeeded=True, task_id="d", root_id="a", task_name="d", parent_id="c")
    for group, members in (("out", ["a"]), ("in", ["b", "c"])):
        Chord.objects.create(group_id=group, members=members, body="d", body_id=body.task_id)

    assert outline(rows.runs_of_workflow(body).records) == "chord[a] > chord[b | c] > d"


def test_a_thousand_members_cost_as_many_queries_as_ten(desk: Client, database: str) -> None:
    def queries(run: TaskRun) -> int:
        with CaptureQueriesContext(connections[database]) as captured:
            assert desk.get(address(run)).status_code == 200
        return len(statements(captured))

    assert queries(chord_of(10, "small")) == queries(chord_of(1000, "large"))


def test_what_is_left_out_is_said(desk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_RUNS", 10)
    run = chord_of(50, "g")
    page = Page(desk.get(address(run)))

    assert "More than 10 runs belong to this workflow." in page.text
    assert "shop.total (this run)" in page.text
    assert "10 runs:" in page.text


def test_groups_that_are_nested_too_deeply_are_said_to_be_missing(desk: Client) -> None:
    """Each group is known only through a member of the one before."""
    for level in range(8):
        TaskRunFactory(task_id=f"x{level}", root_id=f"r{level}", group_id=f"g{level}", group_index=0)
        TaskRunFactory(task_id=f"y{level}", root_id=f"r{level + 1}", group_id=f"g{level}", group_index=1)

    assert "not all of them are shown" in Page(desk.get(address(TaskRun.objects.get(task_id="x0")))).text


def test_nothing_that_is_stored_becomes_markup(desk: Client) -> None:
    (first,) = chain("first")
    TaskRunFactory(task_name=EVIL, task_id=EVIL, parent_id="first", root_id="first", failed=True, exception_type=EVIL)
    TaskRunFactory(task_name=EVIL, parent_id=EVIL, root_id="first", group_id=EVIL, group_index=0, state=EVIL[:16])
    page = desk.get(address(first))
    tags = Page(page).tags

    assert "&lt;script&gt;alert(1)" in content(page)
    assert all(attrs.get("src") for tag, attrs in tags if tag == "script")
    assert not any(name.startswith("on") or name == "style" for _tag, attrs in tags for name in attrs)
    assert not any(attrs.get("src") == "x" for _tag, attrs in tags)


def test_the_picture_is_for_those_who_may_see_runs(log_in: LogIn) -> None:
    runs = chain("import", "price")

    assert pictures(Page(log_in("view_taskrun").get(address(runs[0]))))
    assert log_in("view_deadletter", name="otto").get(address(runs[0])).status_code == 403
