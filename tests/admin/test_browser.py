"""The desk in a real browser: a dead letter is found, requeued and heals; no page scrolls sideways."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from pytest_django.live_server_helper import LiveServer
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from django_taskops.journal.codec import encode
from tests import tasks
from tests.events import Story
from tests.factories import QuarantinedEntryFactory, RecorderFactory, TaskRunFactory
from tests.services import unavailable
from tests.sources import FakeSource, UseSources, entries, waiting
from tests.workers import Worker, eventually

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture
def browser(chromium: str, tmp_path: Path) -> Iterator[Chrome]:
    driver = shutil.which("chromedriver")
    if driver is None:
        unavailable("expected chromedriver on PATH; install chromium-driver to run the browser tests")
    options = ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    with Chrome(options=options, service=Service(driver)) as chrome:
        yield chrome


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_somebody_finds_a_dead_letter_requeues_it_and_sees_it_heal(
    worker: Worker, browser: Chrome, live_server: LiveServer
) -> None:
    key = uuid4().hex
    result = tasks.broken_until_healed.delay(key)
    log_in(browser, live_server)
    eventually(lambda: _at(browser, live_server, "deadletter/") and browser.find_elements(By.PARTIAL_LINK_TEXT, _NAME))
    tasks.heal(key)

    browser.find_element(By.NAME, "_selected_action").click()
    browser.find_element(By.CSS_SELECTOR, "select[name=action] option[value=requeue]").click()
    browser.find_element(By.CSS_SELECTOR, ".actions button").click()
    eventually(lambda: "1 task will be sent again." in browser.page_source)
    browser.find_element(By.NAME, "why").send_keys("the supplier is back")
    browser.find_element(By.CSS_SELECTOR, "#content form [type=submit]").click()
    eventually(lambda: "1 dead letter was requeued." in browser.page_source)

    eventually(lambda: _at(browser, live_server, f"taskrun/?q={result.id}") and "Succeeded" in browser.page_source)
    browser.find_element(By.PARTIAL_LINK_TEXT, _NAME).click()
    eventually(lambda: "the supplier is back" in browser.page_source)
    assert "tests.tasks.Declined" in browser.page_source
    assert _complaints(browser) == []


@pytest.mark.parametrize("database", ["default"], indirect=True)
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_scrolls_sideways(
    worker: Worker, browser: Chrome, live_server: LiveServer, use_sources: UseSources, width: int
) -> None:
    newest = entries(encode(Story("x" * 250, name="x" * 250).started()), b"unreadable")
    use_sources(FakeSource(holding=waiting(newest=newest, holder="x" * 200)), FakeSource(name="spool"))
    QuarantinedEntryFactory(task_id="x" * 250, key="x" * 250, error="x" * 900)
    RecorderFactory(name="x" * 250, holder="x" * 250)
    tasks.fail.apply_async(("x" * 900,), task_id="x" * 250)
    log_in(browser, live_server)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    eventually(
        lambda: (
            _at(browser, live_server, "deadletter/") and browser.find_elements(By.PARTIAL_LINK_TEXT, "tests.tasks.fail")
        )
    )
    wide = [page for page in _pages(browser, live_server) if _scrolls_sideways(browser, page)]

    assert wide == []


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_a_traceback_opens_at_its_end_and_scrolls_by_keyboard(
    worker: Worker, browser: Chrome, live_server: LiveServer
) -> None:
    frames = "".join(f'  File "library.py", line {number}, in call\n    call()\n' for number in range(100))
    run = TaskRunFactory(failed=True, traceback=f"Traceback (most recent call last):\n{frames}SupplierDown: 503\n")
    log_in(browser, live_server)
    _at(browser, live_server, f"taskrun/{run.pk}/change/")
    box = browser.find_element(By.CSS_SELECTOR, ".taskops-traceback [tabindex]")

    def shows(edge: str) -> bool:
        """That this edge of the text is within the box."""
        script = """
            const box = arguments[0].getBoundingClientRect();
            const text = arguments[0].querySelector("pre").getBoundingClientRect();
            return text[arguments[1]] > box.top - 1 && text[arguments[1]] < box.bottom + 1;
        """
        return bool(browser.execute_script(script, box, edge))

    assert (shows("top"), shows("bottom")) == (False, True)
    box.send_keys(Keys.HOME)
    eventually(lambda: shows("top") and not shows("bottom"))


_NAME = "tests.tasks.broken_until_healed"
_LISTS = ("deadletter", "taskrun", "auditentry", "quarantinedentry")


def log_in(browser: Chrome, live_server: LiveServer) -> None:
    User.objects.create_superuser("li", password="shop")
    browser.get(f"{live_server.url}/admin/login/?next=/admin/")
    browser.find_element(By.NAME, "username").send_keys("li")
    browser.find_element(By.NAME, "password").send_keys("shop")
    browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    eventually(lambda: browser.find_elements(By.ID, "user-tools"), message="the admin to open")


def _complaints(browser: Chrome) -> list[str]:
    """What the console holds against our pages; the icon of the site is the project's."""
    log = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in log if "favicon.ico" not in entry["message"]]


def _at(browser: Chrome, live_server: LiveServer, page: str) -> bool:
    browser.get(f"{live_server.url}/admin/taskops/{page}")
    return True


def _pages(browser: Chrome, live_server: LiveServer) -> list[str]:
    lists = [f"{live_server.url}/admin/taskops/{name}/" for name in _LISTS]
    details = []
    for page in lists:
        browser.get(page)
        details += [link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "#result_list a")[:1]]
    edited = [page.replace("/change/", "/edit/") for page in filter(None, details) if "/deadletter/" in page]
    others = [f"{live_server.url}/admin/taskops/{page}/" for page in ("recorder", "deadletter/runs")]
    return [*lists, *others, *edited, *filter(None, details)]


def _scrolls_sideways(browser: Chrome, page: str) -> bool:
    browser.get(page)
    script = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    return bool(browser.execute_script(script))


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_somebody_mends_the_arguments_of_a_dead_letter_and_it_succeeds(
    worker: Worker, browser: Chrome, live_server: LiveServer
) -> None:
    result = tasks.add.delay(2, "three")  # type: ignore[arg-type]
    log_in(browser, live_server)
    eventually(lambda: _at(browser, live_server, "deadletter/") and browser.find_elements(By.PARTIAL_LINK_TEXT, ".add"))
    browser.find_element(By.PARTIAL_LINK_TEXT, ".add").click()
    browser.find_element(By.CSS_SELECTOR, ".taskops-button--edit").click()
    box = browser.find_element(By.NAME, "args")
    box.clear()
    box.send_keys("[2, 3")
    browser.find_element(By.CSS_SELECTOR, "[value=review]").click()
    eventually(lambda: "not JSON at line 1, column 6" in browser.page_source)
    browser.find_element(By.NAME, "args").send_keys("]")
    browser.find_element(By.CSS_SELECTOR, "[value=review]").click()
    eventually(lambda: browser.find_elements(By.CSS_SELECTOR, ".taskops-diff ins"))
    assert browser.find_element(By.CSS_SELECTOR, ".taskops-diff ins").text == "+  3"
    browser.find_element(By.CSS_SELECTOR, "[value=send]").click()
    eventually(lambda: "1 dead letter was requeued." in browser.page_source)

    assert result.get(timeout=30) == 5
    assert _complaints(browser) == []
