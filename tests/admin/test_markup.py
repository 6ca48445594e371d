"""Stored text is anybody's: nothing of it becomes markup. And templates carry neither style nor script of their own."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db import models
from django.test import Client
from django.urls import reverse

import django_taskops
from django_taskops.journal.codec import encode
from django_taskops.models import (
    AuditEntry,
    DeadLetter,
    QuarantinedEntry,
    Recorder,
    RunEnvelope,
    TaskAttempt,
    TaskRun,
)
from tests.admin.pages import Page, content
from tests.events import Story
from tests.factories import (
    AuditEntryFactory,
    DeadLetterFactory,
    QuarantinedEntryFactory,
    RecorderFactory,
    RunEnvelopeFactory,
    TaskAttemptFactory,
    TaskRunFactory,
)
from tests.sources import FakeSource, UseSources, entries, waiting

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
PACKAGE = Path(django_taskops.__file__).parent
TEMPLATES = sorted(PACKAGE.rglob("templates/**/*.html"))


def poisoned(row: Any) -> None:
    """Puts markup into every field of a stored row that holds text or JSON, whatever its choices are."""
    evil: dict[str, Any] = {}
    for field in type(row)._meta.concrete_fields:
        if isinstance(field, models.JSONField):
            evil[field.name] = {EVIL: [EVIL]}
        elif isinstance(field, models.CharField | models.TextField) and field.name not in KEPT:
            evil[field.name] = EVIL[: field.max_length]
    type(row).objects.filter(pk=row.pk).update(**evil)


KEPT = {"object_id", "object_type"}
LISTED = ("taskrun", "deadletter", "auditentry", "quarantinedentry")


@pytest.fixture
def evil_journal(use_sources: UseSources) -> None:
    """Sources full of markup, one that waits for long and one that can't be reached."""
    event = encode(replace(Story(EVIL, name=EVIL).published(), task_name=EVIL))
    backlog = waiting(newest=entries(event, EVIL.encode()), dropped={EVIL: 1}, holder=EVIL)
    use_sources(
        FakeSource(name=EVIL, holding=backlog),
        FakeSource(name="spool", holding=replace(backlog, refused=EVIL)),
        FakeSource(name="redis", error=OSError(EVIL)),
        kind=EVIL,
        address=EVIL,
    )


@pytest.fixture
def pages(desk: Client, evil_journal: None) -> list[str]:
    """Every page there is, of rows full of markup; once where it fills even what is one of a few words."""
    letter = DeadLetterFactory(run__failed=True)
    twin = DeadLetterFactory(run=letter.run, generation=1, previous=letter)
    rows: list[Any] = [
        letter.run,
        letter,
        twin,
        AuditEntryFactory(letter=letter),
        TaskAttemptFactory(run=letter.run, failed=True, publication=EVIL[:32]),
        RunEnvelopeFactory(run=letter.run, missing=True),
        QuarantinedEntryFactory(),
        RecorderFactory(),
    ]
    for row in rows:
        poisoned(row)
    QuarantinedEntry.objects.update(data=EVIL.encode())
    TaskRun.objects.filter(pk=letter.run_id).update(args=[EVIL, {EVIL: EVIL}], progress={"current": 1, "message": EVIL})
    AuditEntry.objects.update(task_id=EVIL)
    DeadLetter.objects.filter(pk=letter.pk).update(status="open", envelope=None)
    DeadLetter.objects.filter(pk=twin.pk).update(status="discarded")
    succeeded = TaskRunFactory(succeeded=True, result=EVIL, args=EVIL, kwargs=EVIL, progress={"current": 1, "total": 2})
    lists = [reverse(f"admin:taskops_{model}_changelist") for model in LISTED]
    changes = [(run, "taskrun") for run in (letter.run, succeeded)] + [(letter, "deadletter"), (twin, "deadletter")]
    addresses = [
        *lists,
        *(f"{address}?q={EVIL}" for address in lists),
        f"{lists[0]}?task_name={EVIL}&group_id={EVIL}&root_id={EVIL}",
        f"{lists[1]}?status=all",
        *(reverse(f"admin:taskops_{model}_change", args=[row.pk]) for row, model in changes),
        reverse("admin:taskops_auditentry_change", args=[rows[3].pk]),
        reverse("admin:taskops_recorder_changelist"),
        *(reverse(f"admin:taskops_quarantinedentry_{page}", args=[rows[6].pk]) for page in ("change", "delete")),
        *(
            f"{reverse(f'admin:taskops_deadletter_{verb}')}?letter={letter.pk}&letter={twin.pk}"
            for verb in ("requeue", "discard", "restore")
        ),
        reverse("admin:taskops_deadletter_history", args=[letter.pk]),
        *(reverse("admin:taskops_deadletter_edit", args=[row.pk]) for row in (letter, twin)),
        reverse("admin:taskops_deadletter_runs"),
    ]
    responses = [desk.get(address) for address in addresses]
    discarded = {"letter": [letter.pk, twin.pk], "why": EVIL}
    responses.append(desk.post(reverse("admin:taskops_deadletter_discard"), discarded, follow=True))
    responses.append(desk.get(reverse("admin:taskops_deadletter_history", args=[letter.pk])))
    ticked = {"action": "delete_selected", "index": "0", "_selected_action": [rows[6].pk]}
    responses.append(desk.post(reverse("admin:taskops_quarantinedentry_changelist"), ticked))
    responses.append(desk.get(reverse("admin:index")))
    assert {response.status_code for response in responses} == {200}
    return [content(response) for response in responses]


def test_nothing_that_is_stored_becomes_markup(pages: list[str]) -> None:
    for page in pages:
        tags = Page(page).tags
        assert all(attrs.get("src") for tag, attrs in tags if tag == "script")
        assert not any(name.startswith("on") or name == "style" for _tag, attrs in tags for name in attrs)
        assert not any(attrs.get("src") == "x" for _tag, attrs in tags)
    assert sum("&lt;script&gt;alert(1)" in page for page in pages) > len(pages) // 2


def test_every_table_was_poisoned(pages: list[str]) -> None:
    for model in (TaskRun, TaskAttempt, DeadLetter, AuditEntry, RunEnvelope, QuarantinedEntry, Recorder):
        assert model.objects.exists()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_a_template_has_no_style_and_no_script(template: Path) -> None:
    text = template.read_text(encoding="utf-8")

    assert not re.search(r"""\sstyle\s*=|<style|<script|javascript:|\son[a-z]+\s*=\s*["']""", text, re.IGNORECASE)
    assert "|safe" not in text
    assert "autoescape off" not in text


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_the_words_of_a_template_are_translatable(template: Path) -> None:
    """What stands outside tags, variables and translated blocks has no letters in it."""
    text = template.read_text(encoding="utf-8")
    blocks = r"{% blocktranslate.*?%}.*?{% endblocktranslate %}|{% block bodyclass %}.*?{% endblock %}"
    text = re.sub(blocks, "", text, flags=re.DOTALL)
    text = re.sub(r"{%.*?%}|{{.*?}}|{#.*?#}|<[^>]*>|&\w+;", "", text, flags=re.DOTALL)

    assert not re.search(r"[A-Za-z]{2,}", text), text


def test_no_stored_text_is_ever_marked_safe() -> None:
    for module in sorted(PACKAGE.rglob("*.py")):
        assert "mark_safe(" not in module.read_text(encoding="utf-8"), module
