"""The page of the workers and of one of them, and what a run that waits says."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin import site
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from django_taskops.admin import workers_page
from django_taskops.models import TaskRun, WorkerBeat
from django_taskops.recovery import queues, workers
from tests.admin.conftest import LogIn
from tests.admin.pages import Page, content
from tests.admin.queries import statements
from tests.admin.test_markup import EVIL, poisoned
from tests.factories import TaskRunFactory
from tests.recovery.beats import alive, held, sent, silent
from tests.workers import BrokerQueue, publishing_to


@pytest.fixture(autouse=True)
def fresh_looks() -> Iterator[None]:
    queues.forget()
    yield
    queues.forget()


def workers_list() -> str:
    return reverse("admin:taskops_workerbeat_changelist")


def page_of(beat: WorkerBeat) -> str:
    return reverse("admin:taskops_workerbeat_change", args=[beat.pk])


def page_of_run(run: TaskRun) -> str:
    return reverse("admin:taskops_taskrun_change", args=[run.pk])


def cards(response: Any) -> dict[str, Any]:
    return {card.name: card for card in response.context["queues"]}


def test_being_staff_shows_nothing(log_in: LogIn) -> None:
    beat = alive()
    for client in (log_in(), log_in("view_taskrun", "view_recorder", name="otto")):
        assert client.get(workers_list()).status_code == 403
        assert client.get(page_of(beat)).status_code == 403


def test_the_view_permission_shows_both_pages(log_in: LogIn) -> None:
    beat = alive()
    client = log_in("view_workerbeat")

    assert client.get(workers_list()).status_code == 200
    assert client.get(page_of(beat)).status_code == 200
    assert workers_list() in Page(client.get(reverse("admin:app_list", args=["taskops"]))).links()


def test_nobody_adds_changes_or_deletes(desk: Client) -> None:
    beat = alive()

    assert desk.get(reverse("admin:taskops_workerbeat_add")).status_code == 403
    assert desk.post(page_of(beat), {"worker": "x"}).status_code == 403
    assert desk.post(reverse("admin:taskops_workerbeat_delete", args=[beat.pk]), {"post": "yes"}).status_code == 403
    assert desk.post(workers_list(), {"action": "delete_selected"}).status_code == 405
    assert WorkerBeat.objects.count() == 1


def test_a_worker_of_which_nothing_is_known_any_more_is_not_found(desk: Client) -> None:
    beat = alive()
    address = page_of(beat)
    beat.delete()

    assert desk.get(address).status_code == 302


def test_the_list_says_who_lives_and_what_they_do(desk: Client) -> None:
    alive("w2@shop", stopped_at=timezone.now(), queues=[])
    alive(
        "w1@shop",
        host="shop-7",
        pid=4711,
        pool="prefork",
        version="7.1",
        queues=["celery", "mail"],
        running=[held("t-1")],
        reserved=[held("t-2"), held("t-3")],
        held=1204,
    )
    silent("w0@shop", seconds=300)
    text = Page(desk.get(workers_list())).text

    assert "1 worker is alive" in text
    assert re.search(r"w1@shop alive \d s ago 1 of 2 1,203 celery, mail prefork . 2 7\.1 shop-7 4711", text)
    assert "w0@shop silent 5 minutes ago" in text
    assert text.index("w1@shop") < text.index("w0@shop") < text.index("w2@shop stopped")


def test_without_any_worker_the_list_says_what_to_do(desk: Client) -> None:
    assert (
        "No worker has been heard of yet. Start one: celery -A your_project worker."
        in Page(desk.get(workers_list())).text
    )


def test_where_nobody_lives_it_says_so(desk: Client) -> None:
    silent()
    page = desk.get(workers_list())

    assert "0 workers are alive" in Page(page).text
    assert "No worker is alive: what is sent now waits." in Page(page).text


def test_versions_that_differ_are_pointed_out(desk: Client) -> None:
    alive("w1@shop", version="7.1")
    alive("w2@shop", version="7.1")
    silent("w3@shop", version="6.9")
    assert "different versions" not in Page(desk.get(workers_list())).text

    alive("w4@shop", version="7.0")
    assert "Live workers run different versions: 7.1 (2), 7.0 (1)." in Page(desk.get(workers_list())).text


def test_a_clock_that_is_off_is_pointed_out_on_both_pages(desk: Client) -> None:
    beat = alive(beat_at=timezone.now() + timedelta(hours=2, minutes=1))
    ahead = "clock 2 hours ahead"

    assert ahead in Page(desk.get(workers_list())).text
    assert f"Compared with the database: {ahead}." in Page(desk.get(page_of(beat))).text


def test_a_queue_says_how_much_waits_who_reads_it_and_for_how_long(desk: Client, queue: BrokerQueue) -> None:
    alive("w1@shop", queues=[queue.name])
    alive("w2@shop", queues=[queue.name])
    for _ in range(2):
        sent(queue)
    TaskRun.objects.update(enqueued_at=timezone.now() - timedelta(minutes=4, seconds=5))
    page = desk.get(workers_list())

    assert f"{queue.name} 2 2 workers · oldest: 4 minutes" in Page(page).text
    assert not cards(page)[queue.name].unread


def test_a_queue_that_nobody_reads_is_marked_where_something_waits(desk: Client, queue: BrokerQueue) -> None:
    silent(queues=[queue.name])
    sent(queue)
    TaskRunFactory(queue=f"{queue.name}-empty")
    page = desk.get(workers_list())

    assert f"{queue.name} 1 nobody reads it" in Page(page).text
    assert cards(page)[queue.name].unread
    assert not cards(page)[f"{queue.name}-empty"].unread
    assert "taskops-card--bad" in content(page)


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_rabbitmq_says_what_is_not_there(desk: Client, queue: BrokerQueue) -> None:
    alive(queues=[queue.name])

    assert f"{queue.name} not there 1 worker" in Page(desk.get(workers_list())).text


@pytest.mark.parametrize(
    ("readers", "consumers", "told"),
    [
        (0, None, "nobody reads it"),
        (0, 0, "nobody reads it"),
        (0, 3, "3 consumers"),
        (2, None, "2 workers"),
        (2, 2, "2 workers"),
        (1, 3, "1 worker, 3 consumers"),
    ],
)
def test_who_reads_a_queue_is_told_by_beats_and_by_rabbitmq(readers: int, consumers: int | None, told: str) -> None:
    assert workers_page._readers(readers, queues.QueueLook(name="x", consumers=consumers)) == told


def test_a_broker_that_is_down_breaks_nothing(desk: Client) -> None:
    alive()
    with publishing_to("redis://:hunter2@127.0.0.1:1/0"):
        page = desk.get(workers_list())

    assert "be reached. OperationalError: " in Page(page).text
    assert "hunter2" not in content(page)
    assert "w1@shop" in content(page)


def test_a_broker_that_can_not_be_asked_is_told(desk: Client) -> None:
    with publishing_to("memory://"):
        assert "only Redis and RabbitMQ can be asked" in Page(desk.get(workers_list())).text


def test_the_list_costs_the_same_for_any_number_and_writes_nothing(
    desk: Client, database: str, queue: BrokerQueue
) -> None:
    def asked() -> list[str]:
        queues.forget()
        with CaptureQueriesContext(connections[database]) as captured:
            assert desk.get(workers_list()).status_code == 200
        return statements(captured)

    alive()
    few = asked()
    for number in range(30):
        alive(f"w{number}@shop", queues=[f"{queue.name}-{number}"])
    TaskRunFactory.create_batch(20)
    many = asked()

    assert len(few) == len(many) == 3, many
    assert all(statement.startswith("SELECT") for statement in many)


def test_only_the_workers_heard_of_last_are_listed(desk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_WORKERS", 2)
    for number in range(3):
        silent(f"w{number}@shop", seconds=600 + number)
    text = Page(desk.get(workers_list())).text

    assert "w2@shop" not in text
    assert "Only those that were heard of last are shown." in text


def test_the_page_of_a_worker_says_what_runs_and_links_to_it(log_in: LogIn) -> None:
    run = TaskRunFactory(task_id="t-1", started=True)
    beat = alive(running=[held("t-1"), held("t-9", "shop.tasks.mail")], reserved=[held("t-2")])
    address = page_of_run(run)
    seen = Page(log_in("view_workerbeat", "view_taskrun").get(page_of(beat)))
    unseen = Page(log_in("view_workerbeat", name="otto").get(page_of(beat)))

    assert address in seen.links()
    assert address not in unseen.links()
    assert "shop.tasks.price started 4 minutes ago t-1 shop.tasks.mail t-9" in seen.text
    assert "shop.tasks.price t-1" in unseen.text
    assert "What it holds and has not started shop.tasks.price t-2" in unseen.text
    assert "1 task shop.tasks.price" in unseen.text


def test_the_page_of_a_worker_lists_fifty_of_each(desk: Client, database: str) -> None:
    few = alive(running=[held("t-0")])
    many = alive("w2@shop", running=[held(f"t-{n}") for n in range(60)], tasks=[f"task-{n}" for n in range(600)])
    for number in range(60):
        TaskRunFactory(task_id=f"t-{number}", started=True)

    def asked(beat: WorkerBeat) -> int:
        with CaptureQueriesContext(connections[database]) as captured:
            desk.get(page_of(beat))
        return len(statements(captured))

    assert asked(few) == asked(many) == 2
    page = desk.get(page_of(many))
    assert len(page.context["running"]) == 50
    text = Page(page).text
    assert "It has more, which is not listed." in text
    assert "600 tasks task-0" in text
    assert "The others are not shown." in text


def test_nothing_that_a_worker_says_becomes_markup(desk: Client, queue: BrokerQueue) -> None:
    row = alive(EVIL, host=EVIL, pool=EVIL[:60], version=EVIL, queues=[EVIL], tasks=[EVIL], running=[held(EVIL, EVIL)])
    alive("w2@shop", version="other", reserved=[held(EVIL, EVIL)], queues=[queue.name])
    worst = alive("w3@shop")
    poisoned(worst)
    run = TaskRunFactory(queue=EVIL, task_name=EVIL)
    pages = [desk.get(address) for address in (workers_list(), page_of(row), page_of(worst), page_of_run(run))]

    assert {page.status_code for page in pages} == {200}
    for page in pages:
        assert all(attrs.get("src") for tag, attrs in Page(page).tags if tag == "script")
        assert not any(attrs.get("src") == "x" for _tag, attrs in Page(page).tags)
    assert all("&lt;script&gt;alert(1)" in content(page) for page in pages)


def test_without_time_zones_both_pages_open(desk: Client, settings: Settings, queue: BrokerQueue) -> None:
    settings.USE_TZ = False
    settings.TIME_ZONE = "Asia/Shanghai"
    run = TaskRunFactory(queue=queue.name, published=timezone.now() - timedelta(minutes=5))
    beat = alive(queues=[queue.name], beat_at=timezone.now(), started_at=timezone.now())

    assert "1 worker is alive" in Page(desk.get(workers_list())).text
    assert desk.get(page_of(beat)).status_code == 200
    assert "What it waits for" in Page(desk.get(page_of_run(run))).text


def test_a_run_that_waits_says_for_what(desk: Client, queue: BrokerQueue) -> None:
    alive()
    text = Page(desk.get(page_of_run(sent(queue)))).text

    assert (
        f"wrong 1 message waits in the queue {queue.name}, which no live worker reads. Start a worker with -Q" in text
    )


@pytest.mark.parametrize("state", ["started", "succeeded", "failed"])
def test_a_run_that_waits_for_nothing_says_nothing(desk: Client, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "recent", None)

    assert "What it waits for" not in Page(desk.get(page_of_run(TaskRunFactory(**{state: True})))).text


def test_every_state_of_a_worker_has_a_colour() -> None:
    assert set(workers_page.TONES) == set(workers.WorkerState)
    assert site.is_registered(WorkerBeat)
