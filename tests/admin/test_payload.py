"""Arguments and results are for those with a permission of their own, on every page there is."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from django_taskops.journal.codec import encode
from tests.admin.conftest import LogIn
from tests.admin.pages import content
from tests.events import Story
from tests.factories import (
    AuditEntryFactory,
    DeadLetterFactory,
    QuarantinedEntryFactory,
    TaskAttemptFactory,
    TaskRunFactory,
)
from tests.sources import FakeSource, UseSources, entries, waiting

SECRET = "the payload"
MODELS = ("taskrun", "deadletter", "auditentry", "quarantinedentry")
CALL = {"args": [SECRET], "kwargs": {"x": SECRET, SECRET: 1}, "result": SECRET}


def pages(client: Client, use_sources: UseSources) -> dict[str, str]:
    event = encode(Story().published(args=[SECRET], envelope=SECRET.encode()))
    use_sources(FakeSource(holding=waiting(newest=entries(event, SECRET.encode()))))
    quarantined = QuarantinedEntryFactory(data=event, error=f"DataError: {SECRET}")
    letter = DeadLetterFactory(**{f"run__{name}": value for name, value in CALL.items()})
    moved = DeadLetterFactory(run=letter.run, generation=1, requeued_as=TaskRunFactory(**CALL).task_id, resolved=True)
    discarded = DeadLetterFactory(run=letter.run, generation=2, discarded=True)
    succeeded = TaskRunFactory(succeeded=True, parent_id=letter.task_id, **CALL)
    TaskAttemptFactory(run=letter.run, retried=True)
    entry = AuditEntryFactory(letter=letter)
    lists = [reverse(f"admin:taskops_{model}_changelist") for model in MODELS]
    rows: list[tuple[str, Any]] = [
        ("deadletter", letter),
        ("deadletter", moved),
        ("taskrun", letter.run),
        ("taskrun", succeeded),
        ("auditentry", entry),
        ("quarantinedentry", quarantined),
    ]
    chosen = f"?letter={letter.pk}&letter={discarded.pk}"
    addresses = [
        *lists,
        reverse("admin:taskops_recorder_changelist"),
        reverse("admin:taskops_quarantinedentry_delete", args=[quarantined.pk]),
        f"{lists[0]}?q={letter.task_id}",
        f"{lists[1]}?status=all",
        *(reverse(f"admin:taskops_{model}_change", args=[row.pk]) for model, row in rows),
        *(reverse(f"admin:taskops_{model}_history", args=[row.pk]) for model, row in rows),
        *(reverse(f"admin:taskops_deadletter_{verb}") + chosen for verb in ("requeue", "discard", "restore")),
        *(
            reverse("admin:autocomplete") + f"?app_label=taskops&model_name=deadletter&field_name={field}&term=shop"
            for field in ("run", "previous")
        ),
    ]
    responses = {address: client.get(address) for address in addresses}
    assert {response.status_code for response in responses.values()} == {200}
    return {address: content(response) for address, response in responses.items()}


@pytest.fixture
def everything_but_payloads(database: str, log_in: LogIn) -> Client:
    client = log_in()
    ours = Permission.objects.filter(content_type__app_label="taskops").exclude(codename="view_payload")
    User.objects.get().user_permissions.set(ours)
    return client


def test_nothing_of_a_payload_is_on_any_page_without_the_permission(
    everything_but_payloads: Client, use_sources: UseSources
) -> None:
    shown = pages(everything_but_payloads, use_sources)

    assert [address for address, page in shown.items() if SECRET in page] == []


def test_with_the_permission_it_is_on_lists_pages_and_reviews(desk: Client, use_sources: UseSources) -> None:
    shown = [address for address, page in pages(desk, use_sources).items() if SECRET in page]

    for part in ("taskrun/", "deadletter/", "/change/", "requeue/", "discard/", "restore/", "quarantinedentry/"):
        assert any(part in address for address in shown), part
