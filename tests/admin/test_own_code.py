"""Which frames of a traceback stand out."""

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from django_taskops.admin.own_code import is_own
from tests.admin.pages import Page, content
from tests.factories import TaskAttemptFactory, TaskRunFactory

INSTALLED = "/srv/shop/.venv/lib/python3.11/site-packages/requests/api.py"
TRACEBACK = f"""Traceback (most recent call last):
  File "/srv/shop/orders/tasks.py", line 3, in price
    fetch("<b>")
    ^^^^^^^^^^^^
  File "{INSTALLED}", line 59, in request
    return session.request(method=method, url=url, **kwargs)
  File "<string>", line 1, in <module>
requests.exceptions.ConnectionError: <script>

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/srv/shop/orders/supplier.py", line 9, in ask
    raise SupplierDown from error
orders.SupplierDown: 503
"""


def strong(page: str) -> list[str]:
    return [part.split("</strong>")[0] for part in page.split('<strong class="taskops-own">')[1:]]


@pytest.fixture
def page(desk: Client, settings: Settings) -> str:
    run = TaskRunFactory(failed=True, traceback=TRACEBACK)
    TaskAttemptFactory(run=run, delivery=run.delivery, traceback=TRACEBACK)
    return content(desk.get(reverse("admin:taskops_taskrun_change", args=[run.pk])))


def test_what_was_not_installed_stands_out_with_its_lines(page: str) -> None:
    first, second = strong(page)

    assert first.splitlines()[0] == "  File &quot;/srv/shop/orders/tasks.py&quot;, line 3, in price"
    assert first.splitlines()[-1] == "    ^^^^^^^^^^^^"
    assert second.splitlines()[-1] == "    raise SupplierDown from error"


def test_the_traceback_is_all_there_and_escaped(page: str) -> None:
    assert " ".join(TRACEBACK.split()) in Page(page).text
    assert "<script>" not in page.partition("taskops-page")[2]


@pytest.mark.parametrize(
    ("packages", "path", "own"),
    [
        (None, "/srv/shop/orders/tasks.py", True),
        (None, INSTALLED, False),
        (None, "/usr/lib/python3/dist-packages/django/db/utils.py", False),
        (None, "/usr/lib/python3.11/json/decoder.py", False),
        (None, "<frozen importlib._bootstrap>", False),
        (["orders"], "/srv/shop/orders/tasks.py", True),
        (["orders"], "/srv/shop/orders.py", True),
        (["orders"], "/srv/shop/preorders/tasks.py", False),
        (["orders"], "/srv/shop/billing/tasks.py", False),
        (["shop.orders"], "/srv/shop/orders/tasks.py", True),
        (["shop.orders"], "/srv/shop/billing/tasks.py", False),
        (["requests"], INSTALLED, True),
        (["shop"], INSTALLED, False),
        (["api"], INSTALLED, False),
        ([], "/srv/shop/orders/tasks.py", False),
        (["orders"], "C:\\shop\\orders\\tasks.py", True),
    ],
)
def test_a_file_is_own_by_its_package(packages: list[str] | None, path: str, *, own: bool) -> None:
    assert is_own(path, packages) is own


def test_the_setting_says_which_packages(desk: Client, settings: Settings) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "OWN_CODE": ["requests"]}
    run = TaskRunFactory(failed=True, traceback=TRACEBACK)

    page = content(desk.get(reverse("admin:taskops_taskrun_change", args=[run.pk])))

    assert [text.split(",")[0] for text in strong(page)] == [f"  File &quot;{INSTALLED}&quot;"]


@pytest.mark.parametrize(
    "traceback", ["", "no traceback at all", '  File "/a.py", line 1, in f', "  + Exception Group\n"]
)
def test_any_text_is_shown(desk: Client, traceback: str) -> None:
    run = TaskRunFactory(failed=True, traceback=traceback)

    assert traceback.strip() in Page(desk.get(reverse("admin:taskops_taskrun_change", args=[run.pk]))).text
