"""The status JSON: what it says, and that nobody learns more than they may."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import PermissionDenied
from django.db import connections
from django.http import HttpRequest
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pytest_django import Settings

from django_taskops.models import TaskRun
from django_taskops.projection import writer
from tests.events import Story


@pytest.fixture
def story(database: str) -> Story:
    story = Story("order/7 a")
    writer.apply([story.published(args=["secret"]), story.started(), story.retried()])
    writer.apply([story.started(), story.succeeded(result="paid")])
    return story


def client_with(*codenames: str, **facts: Any) -> Client:
    user = User.objects.create_user(f"user-{User.objects.count()}", **facts)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def url(task_id: str) -> str:
    return reverse("taskops:status", args=[task_id])


def test_a_poller_gets_the_fields_of_the_contract(story: Story) -> None:
    found = client_with("view_taskrun").get(url(story.task_id))

    assert found.json() == {
        "task_id": "order/7 a",
        "task_name": "shop.tasks.price",
        "state": "SUCCESS",
        "ready": True,
        "successful": True,
        "attempts": 2,
        "progress": None,
        "enqueued_at": "2026-01-01T00:00:01+00:00",
        "started_at": "2026-01-01T00:00:04+00:00",
        "finished_at": "2026-01-01T00:00:05+00:00",
        "retry_at": None,
        "reason": "",
    }
    assert "no-store" in found["Cache-Control"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_instants_are_utc_where_the_project_has_no_time_zones(database: str, settings: Settings) -> None:
    settings.USE_TZ = False
    settings.TIME_ZONE = "Asia/Shanghai"
    story = Story("naive")
    writer.apply([story.published(), story.started(), story.succeeded()])

    found = client_with("view_taskrun").get(url("naive")).json()

    assert (found["enqueued_at"], found["finished_at"]) == ("2026-01-01T00:00:01+00:00", "2026-01-01T00:00:03+00:00")


def test_result_and_error_need_their_own_permission(story: Story) -> None:
    failed = Story("failed")
    writer.apply([failed.published(), failed.failed()])
    client = client_with("view_taskrun", "view_payload")

    assert client.get(url(story.task_id)).json()["result"] == "paid"
    assert client.get(url("failed")).json()["error"] == "'sku'"


def undated(response: Any) -> dict[str, str]:
    """Its headers, but for the instant at which it was made."""
    return {name: value for name, value in response.headers.items() if name != "Expires"}


@pytest.mark.parametrize(
    "who",
    [Client, client_with, lambda: client_with(is_staff=True), lambda: client_with("view_payload")],
    ids=["anonymous", "a user", "staff", "somebody with another permission"],
)
def test_forbidden_and_unknown_are_the_same_answer(story: Story, who: Any) -> None:
    client = who()
    forbidden, unknown = client.get(url(story.task_id)), client.get(url("nowhere"))

    assert forbidden.status_code == unknown.status_code == 404
    assert forbidden.content == unknown.content
    assert undated(forbidden) == undated(unknown)
    assert "no-store" in forbidden["Cache-Control"]
    assert client.get(reverse("taskops:statuses"), {"ids": story.task_id}).json() == {"tasks": []}


def own_runs_only(request: HttpRequest, run: TaskRun) -> bool:
    return run.owner == request.headers.get("X-Owner")


def test_the_project_decides_where_it_wants_to(story: Story, settings: Settings) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "STATUS_PERMISSION": f"{__name__}.own_runs_only"}
    mine = Story("mine")
    writer.apply([mine.published(owner="li")])
    owner = Client(headers={"X-Owner": "li"})

    assert owner.get(url("mine")).status_code == 200
    assert owner.get(url(story.task_id)).status_code == 404
    assert client_with("view_taskrun").get(url("mine")).status_code == 404


async def permits_everybody(request: HttpRequest, run: TaskRun) -> bool:
    return True


def fails(request: HttpRequest, run: TaskRun) -> bool:
    raise RuntimeError("the access service is down")


def denies(request: HttpRequest, run: TaskRun) -> bool:
    raise PermissionDenied


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("decides", [permits_everybody, fails, denies], ids=lambda function: function.__name__)
def test_a_permission_that_does_not_say_true_hides_the_run(story: Story, settings: Settings, decides: Any) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "STATUS_PERMISSION": f"{__name__}.{decides.__name__}"}
    client = Client()
    hidden, unknown = client.get(url(story.task_id)), client.get(url("nowhere"))

    assert (hidden.status_code, hidden.content, undated(hidden)) == (404, unknown.content, undated(unknown))


def test_who_may_see_nothing_costs_no_query_on_runs(story: Story, database: str) -> None:
    with CaptureQueriesContext(connections[database]) as captured:
        Client().get(url(story.task_id))

    assert [query for query in captured if "taskops_" in query["sql"]] == []


@pytest.mark.parametrize("task_id", ["a,b", "nul\x00", "?x=1", "..", "订单", "x" * 300])
def test_ids_that_do_not_fit_a_path_or_a_list_are_found_by_parameter(database: str, task_id: str) -> None:
    from django_taskops.capture.text import storable_id

    story = Story(storable_id(task_id))
    writer.apply([story.published()])
    found = client_with("view_taskrun").get(reverse("taskops:statuses"), {"id": task_id}).json()["tasks"]

    assert [status["task_id"] for status in found] == [storable_id(task_id)]


def test_several_runs_are_asked_for_at_once(story: Story) -> None:
    other = Story("b")
    writer.apply([other.published()])
    found = client_with("view_taskrun").get(reverse("taskops:statuses"), {"ids": f"{story.task_id},b,nowhere"}).json()

    assert {status["task_id"]: status["state"] for status in found["tasks"]} == {"order/7 a": "SUCCESS", "b": "PENDING"}


@pytest.mark.parametrize("count", [0, 101])
def test_a_list_that_is_empty_or_too_long_is_refused(database: str, count: int) -> None:
    ids = ",".join(f"t{place}" for place in range(count))
    refused = client_with("view_taskrun").get(reverse("taskops:statuses"), {"ids": ids})

    assert refused.status_code == 400
    assert refused.json() == {"error": f"ids: expected 1 to 100 task ids, got {count}"}


def test_the_number_of_queries_does_not_grow_with_the_list(database: str) -> None:
    stories = [Story(f"t{place}") for place in range(20)]
    writer.apply([event for story in stories for event in (story.published(), story.started(), story.retried())])
    client = client_with("view_taskrun")

    def queries(ids: list[str]) -> int:
        with CaptureQueriesContext(connections[database]) as captured:
            client.get(reverse("taskops:statuses"), {"ids": ",".join(ids)})
        return len([query for query in captured if "taskops_" in query["sql"]])

    assert queries(["t0"]) == queries([story.task_id for story in stories]) == 2


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
def test_it_is_read_only(story: Story, method: str) -> None:
    assert getattr(client_with("view_taskrun"), method)(url(story.task_id)).status_code == 405
