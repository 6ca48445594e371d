"""What people see of a journal on a real Redis and in real files, and drain by a button."""

import json
from io import StringIO
from pathlib import Path
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from django_taskops import journal
from django_taskops.models import TaskRun
from django_taskops.projection import status
from tests.admin.pages import Page
from tests.events import Story

JOURNALS = pytest.mark.parametrize("kind", ["redis", "spool"])
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def desk(database: str, settings: Settings, redis_url: str, tmp_path: Path, kind: str) -> Client:
    """A superuser of an installation with an empty journal of its own."""
    settings.TASKOPS = {
        **settings.TASKOPS,
        "JOURNAL": redis_url if kind == "redis" else "spool",
        "JOURNAL_PREFIX": f"test-{uuid4().hex}",
        "SPOOL_DIR": str(tmp_path),
    }
    journal.use(None)
    status.forget()
    if kind == "spool":
        journal.expect_collector()
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@JOURNALS
def test_what_waits_is_seen_and_drained_by_the_button(desk: Client, kind: str) -> None:
    story = Story(name="shop.tasks.price")
    for event in (story.published(), story.started()):
        journal.current().append(event)
    journal.flush()
    panel = reverse("admin:taskops_recorder_changelist")
    seen = Page(desk.get(panel)).text

    assert "Events that wait 2" in seen
    assert "started shop.tasks.price" in seen
    assert story.task_id in seen
    assert not TaskRun.objects.exists()

    drained = desk.post(reverse("admin:taskops_recorder_drain"), follow=True)
    assert [str(message) for message in drained.context["messages"]] == ["2 events were applied."]
    assert "Nothing waits: all that was recorded is in the database." in Page(drained).text
    assert TaskRun.objects.get().state == "STARTED"

    out = StringIO()
    call_command("taskops_stats", "--json", stdout=out)
    told = json.loads(out.getvalue())
    assert (told["seeing"], told["journal"]["kind"], told["runs"]["STARTED"]) == (True, kind, 1)
    assert sum(row["applied"] for row in told["recorders"]) == 2
