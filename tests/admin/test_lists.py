"""The lists: who sees them, what they find, and what they cost."""

from typing import Any

import pytest
from django.contrib.admin import site
from django.db import connections
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from django_taskops.admin import paginator
from django_taskops.capture.text import storable_id
from tests.admin.conftest import VIEWER, LogIn
from tests.admin.pages import Page, content
from tests.admin.queries import statements
from tests.factories import AuditEntryFactory, DeadLetterFactory, TaskRunFactory

LISTS = [("taskrun", TaskRunFactory), ("deadletter", DeadLetterFactory), ("auditentry", AuditEntryFactory)]
CALLS = pytest.mark.parametrize(
    ("model", "factory", "run"),
    [("taskrun", TaskRunFactory, ""), ("deadletter", DeadLetterFactory, "run__")],
    ids=["taskrun", "deadletter"],
)
EVERY_LIST = pytest.mark.parametrize(("model", "factory"), LISTS, ids=[name for name, _factory in LISTS])


def address(model: str) -> str:
    return reverse(f"admin:taskops_{model}_changelist")


def rows(response: Any) -> int:
    return len(response.context["cl"].result_list)


@EVERY_LIST
def test_being_staff_shows_nothing(log_in: LogIn, model: str, factory: Any) -> None:
    assert log_in().get(address(model)).status_code == 403


@EVERY_LIST
def test_the_view_permission_of_another_table_shows_nothing(log_in: LogIn, model: str, factory: Any) -> None:
    client = log_in(*(codename for codename in VIEWER if codename != f"view_{model}"))

    assert client.get(address(model)).status_code == 403


@EVERY_LIST
def test_the_view_permission_shows_the_list(log_in: LogIn, model: str, factory: Any) -> None:
    factory()

    assert rows(log_in(f"view_{model}").get(address(model))) == 1


@EVERY_LIST
def test_nobody_adds_changes_or_deletes(desk: Client, model: str, factory: Any) -> None:
    pk = factory().pk
    page = reverse(f"admin:taskops_{model}_change", args=[pk])

    assert desk.get(reverse(f"admin:taskops_{model}_add")).status_code == 403
    assert desk.post(reverse(f"admin:taskops_{model}_add"), {}).status_code == 403
    assert desk.post(page, {"task_name": "x"}).status_code == 403
    assert desk.get(reverse(f"admin:taskops_{model}_delete", args=[pk])).status_code == 403
    assert desk.post(reverse(f"admin:taskops_{model}_delete", args=[pk]), {"post": "yes"}).status_code == 403
    assert "delete_selected" not in content(desk.get(address(model)))


@EVERY_LIST
def test_a_list_costs_the_same_for_5_and_50_rows(desk: Client, database: str, model: str, factory: Any) -> None:
    desk.get(address(model))

    def queries() -> list[str]:
        with CaptureQueriesContext(connections[database]) as captured:
            assert desk.get(address(model)).status_code == 200
        return statements(captured)

    factory.create_batch(5)
    few = queries()
    factory.create_batch(45)
    many = queries()

    assert len(few) == len(many) == 2, many


@EVERY_LIST
def test_a_list_reads_no_large_column(log_in: LogIn, database: str, model: str, factory: Any) -> None:
    factory()
    client = log_in(*VIEWER)
    with CaptureQueriesContext(connections[database]) as captured:
        client.get(address(model))
    (listed,) = [statement for statement in statements(captured) if "ORDER BY" in statement]
    selected = listed.split(" FROM ")[0]

    for column in ("traceback", "exception_message", '"args"', '"kwargs"', '"result"', "details"):
        assert column not in selected
    assert '"envelope",' not in selected


@CALLS
def test_a_list_shows_the_call_to_those_who_may_see_it(log_in: LogIn, model: str, factory: Any, run: str) -> None:
    factory(**{f"{run}args": ["WEB-1004"], f"{run}kwargs": {"to": "x", "a b": [None]}})
    seen = Page(log_in(f"view_{model}", "view_payload").get(address(model))).text
    unseen = content(log_in(f"view_{model}", name="otto").get(address(model)))

    assert "('WEB-1004', to='x', **{'a b': [None]})" in seen
    assert "WEB-1004" not in unseen


@CALLS
@pytest.mark.parametrize(
    ("args", "kwargs", "shown"),
    [
        (None, None, ""),
        ([], {}, "()"),
        (None, {"a": 1}, "(…, a=1)"),
        (["x" * 3000], {}, "(…)"),
        (["x" * 3000], {"a": "y" * 3000}, ""),
        (["x" * 500], {}, "…"),
        ("text", 1, "(*'text')"),
        ({"a": 1}, [1], "(*{'a': 1})"),
    ],
)
def test_calls_of_any_shape_and_length_are_listed(
    desk: Client, model: str, factory: Any, run: str, args: Any, kwargs: Any, shown: str
) -> None:
    factory(**{f"{run}args": args, f"{run}kwargs": kwargs})
    response = desk.get(address(model))

    assert shown in Page(response).text
    assert ("taskops-call" in content(response)) == bool(shown)
    assert "x" * 600 not in content(response)


@CALLS
def test_the_calls_are_not_read_where_rows_are_counted(
    desk: Client, database: str, model: str, factory: Any, run: str
) -> None:
    factory()
    with CaptureQueriesContext(connections[database]) as captured:
        desk.get(address(model))
    (count,) = [statement for statement in statements(captured) if "COUNT(" in statement]

    assert "args" not in count
    assert "JOIN" not in count


def test_a_list_of_letters_shows_no_call_of_another_send(desk: Client) -> None:
    DeadLetterFactory(run__described="0006ffff/000000/00000/000000/wire", run__args=["of the other send"])

    assert "of the other send" not in content(desk.get(address("deadletter")))


@pytest.mark.mariadb
@EVERY_LIST
def test_counting_stops_at_the_cap(
    desk: Client, database: str, model: str, factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paginator, "CAP", 3)
    factory.create_batch(4)
    with CaptureQueriesContext(connections[database]) as captured:
        response = desk.get(address(model))
    counts = [statement for statement in statements(captured) if "COUNT(" in statement]

    assert "3+" in Page(response).text
    assert len(counts) == 1
    assert "LIMIT 4" in counts[0]
    assert not any("DISTINCT" in query["sql"] for query in captured)


@EVERY_LIST
@pytest.mark.parametrize(
    "query",
    [
        "q=a%00b",
        "q=%22",
        "q=" + "x" * 5000,
        "q=%ED%A0%80",
        "p=-1",
        "p=999999999999999999999",
        "p=x",
        "o=1.2.-3",
        "all=1",
        "since=%00",
        "since=never",
        "state=%00",
        "status=%00",
        "reason=nothing",
        "action=%00",
        "task_id__contains=%00",
        "traceback__icontains=a",
        "nonsense=1",
        "task_name=%00",
        "root_id=%00",
        "e=1",
        "_popup=1",
    ],
)
def test_bad_queries_lead_to_a_list(desk: Client, model: str, factory: Any, query: str) -> None:
    factory()

    assert desk.get(f"{address(model)}?{query}", follow=True).status_code == 200


@EVERY_LIST
def test_the_order_is_always_newest_first(desk: Client, model: str, factory: Any) -> None:
    factory.create_batch(3)
    listed = [row.pk for row in desk.get(address(model), {"o": "2"}).context["cl"].result_list]

    assert listed == sorted(listed, reverse=True)


@pytest.mark.mariadb
@EVERY_LIST
@pytest.mark.parametrize(
    "task_id", ["a/b", "two words", "quo\"te's", "a\x00b", "<b>", "%2F", " spaced ", "ü☃", "x" * 300, "\udc80"]
)
def test_an_id_of_any_characters_is_found(desk: Client, model: str, factory: Any, task_id: str) -> None:
    factory()
    if model == "taskrun":
        factory(task_id=storable_id(task_id))
    elif model == "deadletter":
        factory(run__task_id=storable_id(task_id))
    else:
        factory(letter__run__task_id=storable_id(task_id))
    asked = storable_id(task_id) if "\udc80" in task_id else task_id  # a browser can't send a lone surrogate
    (found,) = desk.get(address(model), {"q": asked}).context["cl"].result_list

    assert found.task_id == storable_id(task_id)


@pytest.mark.mariadb
@EVERY_LIST
@pytest.mark.parametrize("term", ["x\x00", "\x00", "\udc80", " \x00 x"])
def test_a_search_past_the_form_is_as_safe(desk: Client, database: str, model: str, factory: Any, term: str) -> None:
    row = factory()
    admin = site.get_model_admin(type(row))
    found, _duplicates = admin.get_search_results(RequestFactory().get("/"), type(row).objects.all(), term)

    assert list(found) == []


@pytest.mark.parametrize(
    ("model", "field"), [("deadletter", "previous"), ("deadletter", "run"), ("taskattempt", "run")]
)
@pytest.mark.parametrize("term", ["x\x00", "\x00"])
def test_the_autocomplete_of_other_admins_takes_any_text(desk: Client, model: str, field: str, term: str) -> None:
    asked = {"app_label": "taskops", "model_name": model, "field_name": field, "term": term}
    response = desk.get(reverse("admin:autocomplete"), asked)

    assert response.status_code == 200
    assert response.json()["results"] == []


@pytest.mark.mariadb
@pytest.mark.parametrize(("model", "factory"), LISTS[:2], ids=["taskrun", "deadletter"])
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("billing", 1),
        ("BILL", 1),
        ("shop.tasks", 1),
        ("Refused", 1),
        ("billing.errors", 1),
        ("billing Refused", 1),
        ("billing SupplierDown", 0),
        ("nowhere", 0),
        ("   ", 2),
    ],
)
def test_words_find_task_names_and_exceptions(desk: Client, model: str, factory: Any, query: str, found: int) -> None:
    prefix = "" if model == "taskrun" else "run__"
    failed = {"failed": True} if model == "taskrun" else {}
    factory(**failed)
    factory(**{f"{prefix}task_name": "billing.charge", f"{prefix}exception_type": "billing.errors.Refused"}, **failed)

    assert rows(desk.get(address(model), {"q": query})) == found


def test_letters_that_wait_are_what_is_listed(desk: Client) -> None:
    DeadLetterFactory()
    DeadLetterFactory(resolved=True)
    DeadLetterFactory(discarded=True)
    page = address("deadletter")

    assert rows(desk.get(page)) == 1
    assert rows(desk.get(page, {"status": "open"})) == 1
    assert rows(desk.get(page, {"status": "discarded"})) == 1
    assert rows(desk.get(page, {"status": "all"})) == 3


def test_a_search_among_the_open_letters_offers_the_others(desk: Client) -> None:
    letter = DeadLetterFactory(resolved=True)
    response = desk.get(address("deadletter"), {"q": letter.task_id})
    (offered,) = [link for link in Page(response).links() if "status=all" in link and "q=" in link][:1]

    assert rows(response) == 0
    assert rows(desk.get(address("deadletter") + offered)) == 1


def test_a_letter_says_why_it_can_not_be_run_again(desk: Client) -> None:
    DeadLetterFactory()
    DeadLetterFactory(without_envelope=True)
    text = Page(desk.get(address("deadletter"))).text

    assert "not re-runnable: payload of 300000 bytes exceeds the limit" in text


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("taskrun", "No task has been recorded yet."),
        ("deadletter", "No dead letters. Nothing waits for you."),
        ("auditentry", "Nobody has decided anything yet."),
    ],
)
def test_an_empty_list_says_so(desk: Client, model: str, sentence: str) -> None:
    assert sentence in Page(desk.get(address(model))).text
    assert "Nothing matches." in Page(desk.get(address(model), {"q": "nowhere"})).text


@pytest.mark.mariadb
def test_filters_narrow_the_runs(desk: Client) -> None:
    TaskRunFactory(succeeded=True, group_id="group/1")
    TaskRunFactory(exhausted=True, root_id="root")
    page = address("taskrun")

    assert rows(desk.get(page, {"state": "FAILURE"})) == 1
    assert rows(desk.get(page, {"reason": "exhausted"})) == 1
    assert rows(desk.get(page, {"since": "hour"})) == 2
    assert rows(desk.get(page, {"group_id": "group/1"})) == 1
    assert rows(desk.get(page, {"root_id": "root"})) == 1
    assert rows(desk.get(page, {"task_name": "shop.tasks.price", "state": "SUCCESS"})) == 1


def test_only_these_tables_stand_on_the_index(desk: Client) -> None:
    (app,) = [app for app in desk.get(reverse("admin:index")).context["app_list"] if app["app_label"] == "taskops"]

    assert {model["object_name"] for model in app["models"]} == {
        "TaskRun",
        "DeadLetter",
        "AuditEntry",
        "QuarantinedEntry",
        "Recorder",
        "WorkerBeat",
    }
