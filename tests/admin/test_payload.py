"""Arguments and results are for those with a permission of their own, on every page there is."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from tests.admin.conftest import LogIn
from tests.admin.pages import content
from tests.factories import AuditEntryFactory, DeadLetterFactory, TaskAttemptFactory, TaskRunFactory

SECRET = "the payload"
CALL = {"args": [SECRET], "kwargs": {"x": SECRET, SECRET: 1}, "result": SECRET}


def pages(client: Client) -> dict[str, str]:
    letter = DeadLetterFactory(**{f"run__{name}": value for name, value in CALL.items()})
    moved = DeadLetterFactory(run=letter.run, generation=1, requeued_as=TaskRunFactory(**CALL).task_id, resolved=True)
    discarded = DeadLetterFactory(run=letter.run, generation=2, discarded=True)
    succeeded = TaskRunFactory(succeeded=True, parent_id=letter.task_id, **CALL)
    TaskAttemptFactory(run=letter.run, retried=True)
    entry = AuditEntryFactory(letter=letter)
    lists = [reverse(f"admin:taskops_{model}_changelist") for model in ("taskrun", "deadletter", "auditentry")]
    rows: list[tuple[str, Any]] = [
        ("deadletter", letter),
        ("deadletter", moved),
        ("taskrun", letter.run),
        ("taskrun", succeeded),
        ("auditentry", entry),
    ]
    chosen = f"?letter={letter.pk}&letter={discarded.pk}"
    addresses = [
        *lists,
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


def test_nothing_of_a_payload_is_on_any_page_without_the_permission(everything_but_payloads: Client) -> None:
    assert [address for address, page in pages(everything_but_payloads).items() if SECRET in page] == []


def test_with_the_permission_it_is_on_lists_pages_and_reviews(desk: Client) -> None:
    shown = [address for address, page in pages(desk).items() if SECRET in page]

    for part in ("taskrun/", "deadletter/", "/change/", "requeue/", "discard/", "restore/"):
        assert any(part in address for address in shown), part
