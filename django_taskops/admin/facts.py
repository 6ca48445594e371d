"""The table of facts on the page of a run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from ..events import EventKind
from ..models import TaskRun
from . import display

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

Related = Mapping[str, TaskRun]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    label: "StrOrPromise"
    value: object
    note: str = ""


def related_runs(run: TaskRun) -> Related:
    """The runs that `run` names, by task id, in one query."""
    ids = {run.parent_id, run.root_id, run.requeued_from} - {"", run.task_id}
    found = TaskRun.objects.filter(task_id__in=ids).only("pk", "task_id", "task_name", "state") if ids else ()
    return {other.task_id: other for other in found}


def run_facts(run: TaskRun, related: Related, site: str) -> list[Fact]:
    """What is known; a fact without a value is left out."""
    facts = [*_times(run), *_places(run), *_relations(run, related, site), *_origin(run)]
    return [fact for fact in facts if fact.value not in ("", None)]


def _times(run: TaskRun) -> Iterator[Fact]:
    ran = display.between(run.started_at, run.finished_at)
    waited = _waited(run)
    yield Fact(label=_("Enqueued"), value=display.moment(run.enqueued_at))
    yield Fact(label=_("Not before"), value=display.moment(run.eta))
    yield Fact(label=_("Expires"), value=display.moment(run.expires))
    yield Fact(label=_("Received"), value=display.moment(run.received_at))
    yield Fact(
        label=_("Started"),
        value=display.moment(run.started_at),
        note=_("waited %(time)s") % {"time": waited} if waited else "",
    )
    yield Fact(
        label=_("Finished"),
        value=display.moment(run.finished_at),
        note=_("ran %(time)s") % {"time": ran} if ran else "",
    )
    comes_again = run.verdict == EventKind.ABANDONED
    label = _("Redelivery due by") if comes_again else _("Next retry")
    yield Fact(label=label, value=display.moment(run.retry_at))


def _waited(run: TaskRun) -> str:
    """The time in the queue. What the task was asked to wait does not count; a retry starts anew."""
    if run.retries or run.enqueued_at is None:
        return display.between(run.eta, run.started_at)
    return display.between(max(run.enqueued_at, run.eta or run.enqueued_at), run.started_at)


def _places(run: TaskRun) -> Iterator[Fact]:
    yield Fact(label=_("Queue"), value=run.queue)
    yield Fact(label=_("Priority"), value=run.priority)
    yield Fact(label=_("Worker"), value=run.worker)
    yield Fact(label=_("Process"), value="" if run.pid is None else str(run.pid))
    yield Fact(label=_("Version"), value=run.version)
    yield Fact(label=_("Attempt"), value=run.retries + 1)
    yield Fact(
        label=_("Generation"),
        value=run.generation,
        note=_("requeued %(count)s times") % {"count": run.generation} if run.generation > 1 else "",
    )
    yield Fact(label=_("Publication"), value=_code(run.publication))


def _relations(run: TaskRun, related: Related, site: str) -> Iterator[Fact]:
    yield Fact(label=_("Parent"), value=_run_link(run.parent_id, related, site))
    if run.root_id != run.task_id:
        yield Fact(label=_("Root"), value=_run_link(run.root_id, related, site))
    yield Fact(label=_("Workflow"), value=_runs_link("root_id", run.root_id, _("all runs of this workflow"), site))
    yield Fact(label=_("Group"), value=_runs_link("group_id", run.group_id, run.group_id, site))
    yield Fact(label=_("Requeued from"), value=_run_link(run.requeued_from, related, site))


def _run_link(task_id: str, related: Related, site: str) -> SafeString | str:
    other = related.get(task_id)
    if other is None:
        return _code(task_id)
    badge = display.badge(other.state, other.get_state_display())
    return format_html("{} {}", display.link(other, other.task_name or task_id, site), badge)


def _runs_link(parameter: str, value: str, text: str, site: str) -> SafeString | str:
    if not value:
        return ""
    runs = reverse("admin:taskops_taskrun_changelist", current_app=site)
    return format_html('<a href="{}?{}">{}</a>', runs, urlencode({parameter: value}), text)


def _origin(run: TaskRun) -> Iterator[Fact]:
    yield Fact(label=_("Owner"), value=run.owner)
    yield Fact(label=_("Periodic task"), value=run.periodic_task)
    yield Fact(label=_("Trace"), value=_code(run.trace_id))


def _code(text: str) -> SafeString | str:
    return format_html("<code>{}</code>", text) if text else ""
