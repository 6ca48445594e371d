"""The page of a run: what it tells, to whom, and at what cost."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django_celery_results.models import TaskResult

from django_taskops.models import TaskAttempt, TaskRun
from tests.admin.conftest import LogIn
from tests.admin.pages import Page, content
from tests.admin.queries import statements
from tests.factories import (
    AuditEntryFactory,
    DeadLetterFactory,
    RunEnvelopeFactory,
    TaskAttemptFactory,
    TaskRunFactory,
)

SHARED = (
    "generation",
    "seen",
    "state",
    "reason",
    "received_at",
    "started_at",
    "finished_at",
    "worker",
    "pid",
    "exception_type",
    "exception_message",
    "traceback",
)


def address(run: TaskRun) -> str:
    return reverse("admin:taskops_taskrun_change", args=[run.pk])


def attempt_of(run: TaskRun) -> TaskAttempt:
    """The attempt that a failed run's own row repeats."""
    shared = {name: getattr(run, name) for name in SHARED}
    attempt: TaskAttempt = TaskAttemptFactory(run=run, delivery=run.delivery, number=run.retries + 1, **shared)
    return attempt


def steps(response: Any) -> list[Any]:
    return list(response.context["steps"])


def test_the_view_permission_is_needed(log_in: LogIn) -> None:
    run = TaskRunFactory()

    assert log_in("view_deadletter", "view_payload").get(address(run)).status_code == 403


def test_the_call_and_the_result_stand_as_code(desk: Client) -> None:
    run = TaskRunFactory(succeeded=True, result={"total": 12})
    text = Page(desk.get(address(run))).text

    assert "shop.tasks.price(42, currency='EUR')" in text
    assert "{'total': 12}" in text


def test_the_call_and_the_result_need_a_permission_that_the_page_names(log_in: LogIn) -> None:
    run = TaskRunFactory(succeeded=True, result="the secret", args=["the secret"], kwargs={"x": "the secret"})
    page = Page(log_in("view_taskrun").get(address(run))).text

    assert "the secret" not in page
    assert "taskops.view_payload" in page
    assert "the secret" in Page(log_in("view_taskrun", "view_payload", name="otto").get(address(run))).text


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(None, None), ([], {}), ("text", "text"), (1, [1]), ({"a": 1}, None), ([None], {"a b": 1, "": 2})],
)
def test_arguments_of_any_shape_are_shown(desk: Client, args: object, kwargs: object) -> None:
    assert desk.get(address(TaskRunFactory(args=args, kwargs=kwargs))).status_code == 200


def test_a_first_success_is_its_own_only_step(desk: Client) -> None:
    response = desk.get(address(TaskRunFactory(succeeded=True)))

    assert [(step.number, step.delivery.state) for step in steps(response)] == [(1, "SUCCESS")]


def test_a_final_failure_is_not_told_twice(desk: Client) -> None:
    run = TaskRunFactory(exhausted=True, retries=1)
    TaskAttemptFactory(run=run, retried=True, number=1)
    attempt_of(run)
    response = desk.get(address(run))

    assert [(step.number, step.delivery.state, step.shown) for step in steps(response)] == [
        (2, "FAILURE", True),
        (1, "RETRY", False),
    ]
    assert "Attempt 1 Retried" in Page(response).text


def test_the_running_delivery_stands_above_the_attempts_before_it(desk: Client) -> None:
    run = TaskRunFactory(started=True, generation=1)
    TaskAttemptFactory(run=run, exhausted=True, number=3)
    TaskAttemptFactory(run=run, retried=True, number=2)
    response = desk.get(address(run))

    assert [(step.delivery.generation, step.number) for step in steps(response)] == [(1, 1), (0, 3), (0, 2)]


def test_a_step_of_an_earlier_publish_says_so(desk: Client) -> None:
    run = TaskRunFactory(succeeded=True)
    TaskAttemptFactory(run=run, failed=True, publication="0")

    assert "of an earlier publish under this id" in Page(desk.get(address(run))).text


def test_what_nobody_has_received_says_so(desk: Client) -> None:
    assert "No worker has received it yet." in Page(desk.get(address(TaskRunFactory()))).text


def test_the_facts_have_durations(desk: Client) -> None:
    text = Page(desk.get(address(TaskRunFactory(succeeded=True)))).text

    assert "waited 2.0 s" in text
    assert "ran 1.5 s" in text


def test_waiting_for_an_eta_is_no_time_in_the_queue(desk: Client) -> None:
    published = timezone.now() - timedelta(hours=1)
    run = TaskRunFactory(succeeded=True, published=published, eta=published + timedelta(seconds=1.5))

    assert "waited 500 ms" in Page(desk.get(address(run))).text


def test_clocks_that_contradict_each_other_give_no_duration(desk: Client) -> None:
    run = TaskRunFactory(started=True, enqueued_at=timezone.now() + timedelta(hours=1))

    assert "waited" not in Page(desk.get(address(run))).text


@pytest.mark.parametrize(
    "progress",
    [
        {"current": 3, "total": 10, "percent": 30.0, "message": "rows", "at": "2026-11-20T03:00:00+00:00"},
        {"current": 1.5, "total": None, "percent": None, "message": "", "at": "2026-11-20T03:00:00+00:00"},
        {"current": "x"},
        {"current": 1, "total": "many", "at": None},
        {"current": 1, "total": 0, "at": "yesterday"},
        [1],
        "half",
        7,
    ],
)
def test_progress_of_any_shape_is_shown_or_left_out(desk: Client, progress: Any) -> None:
    response = desk.get(address(TaskRunFactory(started=True, progress=progress)))
    bars = Page(response).all("progress")

    assert response.status_code == 200
    assert len(bars) == (isinstance(progress, dict) and progress.get("total") == 10)


def test_relatives_are_linked_where_they_are_known(desk: Client) -> None:
    parent = TaskRunFactory()
    run = TaskRunFactory(parent_id=parent.task_id, root_id="gone", group_id="all of/them")
    links = Page(desk.get(address(run))).links()

    assert address(parent) in links
    assert reverse("admin:taskops_taskrun_changelist") + "?group_id=all+of%2Fthem" in links
    assert reverse("admin:taskops_taskrun_changelist") + "?root_id=gone" in links


def test_letters_and_decisions_are_shown_to_those_who_may_see_them(log_in: LogIn) -> None:
    letter = DeadLetterFactory(discarded=True)
    entry = AuditEntryFactory(letter=letter)
    mine = {
        reverse("admin:taskops_deadletter_change", args=[letter.pk]),
        reverse("admin:taskops_auditentry_change", args=[entry.pk]),
    }
    everything = log_in("view_taskrun", "view_deadletter", "view_auditentry").get(address(letter.run))
    only_runs = log_in("view_taskrun", name="otto").get(address(letter.run))

    assert mine <= set(Page(everything).links())
    assert not mine & set(Page(only_runs).links())
    assert "cancelled the order" not in content(only_runs)


def test_a_run_says_why_it_can_not_be_run_again(desk: Client) -> None:
    unfinished = RunEnvelopeFactory(missing=True, run__started=True).run
    dead = DeadLetterFactory(without_envelope=True).run
    unknown = DeadLetterFactory(envelope=None).run

    for run in (unfinished, dead):
        assert "payload of 300000 bytes exceeds the limit" in Page(desk.get(address(run))).text
    assert "its message was never recorded" in Page(desk.get(address(unknown))).text
    assert "run again" not in Page(desk.get(address(DeadLetterFactory().run))).text


def test_the_row_of_django_celery_results_is_linked_for_those_who_may_see_it(log_in: LogIn) -> None:
    run = TaskRunFactory(succeeded=True)
    result = TaskResult.objects.create(task_id=run.task_id)
    link = reverse("admin:django_celery_results_taskresult_change", args=[result.pk])
    client = log_in("view_taskrun")

    assert link not in Page(client.get(address(run))).links()
    User.objects.get(username="maria").user_permissions.add(Permission.objects.get(codename="view_taskresult"))
    assert link in Page(client.get(address(run))).links()
    assert not any(
        "/taskresult/" in link and "change" in link for link in Page(client.get(address(TaskRunFactory()))).links()
    )


def test_the_page_costs_the_same_whatever_the_run_has_been_through(desk: Client, database: str) -> None:
    def queries(run: TaskRun) -> int:
        with CaptureQueriesContext(connections[database]) as captured:
            assert desk.get(address(run)).status_code == 200
        return len(statements(captured))

    plain = DeadLetterFactory(run__parent_id=TaskRunFactory().task_id)
    busy = DeadLetterFactory(run__parent_id=TaskRunFactory().task_id, run__root_id=TaskRunFactory().task_id)
    TaskAttemptFactory.create_batch(20, run=busy.run, retried=True)
    for generation in range(1, 10):
        AuditEntryFactory(letter=DeadLetterFactory(run=busy.run, generation=generation, resolved=True))

    assert queries(plain.run) == queries(busy.run)


def test_old_attempts_are_left_out_and_the_page_says_so(desk: Client) -> None:
    run = TaskRunFactory(exhausted=True, retries=60)
    TaskAttemptFactory.create_batch(60, run=run, retried=True)
    response = desk.get(address(run))

    assert len(steps(response)) == 50
    assert "Older attempts are not shown." in Page(response).text


@pytest.mark.parametrize("key", ["0", "abc", "9" * 30, "a/b", "%00", "-1", "1_0"])
def test_a_key_of_no_run_leads_back(desk: Client, key: str) -> None:
    response = desk.get(f"/admin/taskops/taskrun/{key}/change/", follow=True)

    assert response.status_code == 200
    assert response.redirect_chain


def test_a_run_that_was_never_sent_says_what_came_before_it_and_has_no_attempt(log_in: LogIn) -> None:
    run = TaskRunFactory(
        state="FAILURE",
        reason="upstream_failed",
        delivery="d1",
        verdict="upstream_failed",
        exception_message="shop.tasks.charge 7 ended before: no stock",
    )
    page = log_in("view_taskrun").get(address(run))

    assert steps(page) == []
    assert "shop.tasks.charge 7 ended before: no stock" in Page(page).text
    assert "It was never sent" in Page(page).text
