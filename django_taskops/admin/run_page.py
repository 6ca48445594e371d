"""What the page of a run shows. A constant number of queries, whatever the run has been through."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.apps import apps
from django.db import Error
from django.db.models import Q
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import pgettext_lazy

from ..models import AuditAction, AuditEntry, DeadLetter, RunEnvelope, TaskAttempt, TaskRun
from ..recovery.doctor import examine_run
from ..recovery.findings import Finding, Level
from ..states import QuietReason, TaskState
from . import display, payload
from .facts import related_runs, run_facts
from .workflow.page import workflow_of

MAX_ROWS = 50
WAITING = frozenset({TaskState.PENDING, TaskState.RECEIVED, TaskState.RETRY})
LEVELS = {
    Level.GOOD: pgettext_lazy("finding", "in order"),
    Level.WARNING: pgettext_lazy("finding", "look at it"),
    Level.BAD: pgettext_lazy("finding", "wrong"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One delivery in the timeline."""

    delivery: TaskRun | TaskAttempt
    number: int
    badge: SafeString
    shown: bool  # the delivery whose verdict the run shows
    earlier: bool  # of an earlier publish under the same id
    ran: str


def context(request: HttpRequest, run: TaskRun, site: str) -> dict[str, Any]:
    steps = timeline(run)
    related = related_runs(run)
    return {
        "run": run,
        "badge": display.badge(run.state, run.get_state_display()),
        "facts": run_facts(run, related, site),
        "findings": _findings(run),
        "progress": _progress(run),
        "steps": steps[:MAX_ROWS],
        "never_sent": _never_sent(run),
        "given_up": _given_up(run),
        "more_steps": len(steps) > MAX_ROWS,
        "letters": _letters(request, run),
        "audit": audit_entries(request, Q(task_id=run.task_id)),
        "not_rerunnable": _not_rerunnable(run),
        "result_page": _result_page(request, run, site),
        "workflow": workflow_of(run, site),
        **payload.context(request, run),
    }


def timeline(run: TaskRun) -> list[Step]:
    """Deliveries, newest first: the stored attempts and, where it has none, the one that stands in the run's row."""
    newest = run.attempts.order_by("-publication", "-generation", "-nesting", "-number", "-seen").defer("frames")
    deliveries: list[TaskRun | TaskAttempt] = list(newest[: MAX_ROWS + 1])
    if run.delivery and not _never_sent(run) and all(attempt.delivery != run.delivery for attempt in deliveries):
        deliveries.append(run)
    return [_step(run, delivery) for delivery in sorted(deliveries, key=_order, reverse=True)]


def _never_sent(run: TaskRun) -> bool:
    return run.reason == QuietReason.UPSTREAM_FAILED


def _given_up(run: TaskRun) -> AuditEntry | None:
    """The verdict of the reaper on a delivery that has succeeded after all."""
    if run.state != TaskState.SUCCESS:
        return None
    verdicts = AuditEntry.objects.filter(task_id=run.task_id, action=AuditAction.REAP).order_by("-pk")[:MAX_ROWS]
    return next((entry for entry in verdicts if entry.details.get("delivery") == run.delivery), None)


def _order(delivery: TaskRun | TaskAttempt) -> tuple[str, int, int, int, int]:
    return (delivery.publication, delivery.generation, delivery.nesting, delivery.retries, delivery.seen)


def _step(run: TaskRun, delivery: TaskRun | TaskAttempt) -> Step:
    shown = delivery.delivery == run.delivery
    label = delivery.get_state_display() if shown or delivery.state != TaskState.RETRY else _("Retried")
    return Step(
        delivery=delivery,
        number=delivery.retries + 1,
        badge=display.badge(delivery.state, label),
        shown=shown,
        earlier=delivery.publication != run.publication,
        ran=display.between(delivery.started_at, delivery.finished_at),
    )


def _findings(run: TaskRun) -> list[dict[str, Any]]:
    """Where a run that waits is, and what it waits for; of the recorder, the line above the page has told."""
    try:
        found = examine_run(run) if run.state in WAITING else []
    except Error:  # a database that is one migration behind
        found = []
    return [{"finding": each, "badge": _level(each)} for each in found if not each.code.startswith("recorder_")]


def _level(finding: Finding) -> SafeString:
    return display.tone(finding.level, LEVELS[finding.level])


def _progress(run: TaskRun) -> dict[str, Any] | None:
    """What `set_progress` reported, if it is shaped as we write it."""
    told = run.progress
    if not isinstance(told, dict) or not isinstance(told.get("current"), (int, float)):
        return None
    total = told.get("total")
    return {
        "current": told["current"],
        "total": total if isinstance(total, (int, float)) and total > 0 else None,
        "message": str(told.get("message") or ""),
        "at": display.moment(_instant(told.get("at"))),
    }


def _instant(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _letters(request: HttpRequest, run: TaskRun) -> list[dict[str, Any]]:
    if not request.user.has_perm("taskops.view_deadletter"):
        return []
    letters = run.dead_letters.defer("envelope").order_by("-pk")[:MAX_ROWS]
    return [{"letter": letter, "badge": letter_badge(letter)} for letter in letters]


def letter_badge(letter: DeadLetter) -> SafeString:
    return display.badge(letter.status, letter.get_status_display())


def audit_entries(request: HttpRequest, about: Q) -> list[AuditEntry]:
    """The newest decisions, for those who may see them."""
    if not request.user.has_perm("taskops.view_auditentry"):
        return []
    return list(AuditEntry.objects.filter(about).order_by("-pk")[:MAX_ROWS])


def _not_rerunnable(run: TaskRun) -> str:
    """Why this run can't be run again, should it come to that; "" where it can, or has succeeded."""
    if run.state == TaskState.SUCCESS:
        return ""
    of_run = RunEnvelope.objects.filter(run=run, envelope=None).values_list("error", flat=True)
    of_letter = DeadLetter.objects.filter(
        run=run, publication=run.publication, generation=run.generation, envelope=None
    ).values_list("envelope_error", flat=True)
    found = [*of_run, *of_letter]
    return (found[0] or _("its message was never recorded")) if found else ""


def _result_page(request: HttpRequest, run: TaskRun, site: str) -> str:
    """The address of the row of django-celery-results, "" where there is none that the user may see."""
    if not apps.is_installed("django_celery_results"):
        return ""
    if not request.user.has_perm("django_celery_results.view_taskresult"):
        return ""
    result = apps.get_model("django_celery_results", "TaskResult")
    pk = result.objects.filter(task_id=run.task_id).values_list("pk", flat=True).first()
    if pk is None:
        return ""
    try:
        return reverse("admin:django_celery_results_taskresult_change", args=[pk], current_app=site)
    except NoReverseMatch:  # its admin is not registered on this site
        return ""
