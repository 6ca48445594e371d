"""Task runs: the list, and the page that tells what became of one."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from ..models import TaskRun
from ..states import TaskState
from . import display, payload, run_page
from .base import ReadOnlyAdmin
from .filters import FinishedFilter, GroupFilter, RunReasonFilter, StateFilter, TaskFilter, WorkflowFilter
from .search import search

NOT_SUCCESS = ~Q(state=TaskState.SUCCESS)


@admin.register(TaskRun)
class TaskRunAdmin(ReadOnlyAdmin):
    empty_text = _("No task has been recorded yet. Runs appear here as soon as a task is published.")
    list_deferred = (
        "args",
        "kwargs",
        "result",
        "progress",
        "exception_message",
        "traceback",
    )
    list_display = ("task", "state_and_reason", "enqueued", "took", "attempts_made", "queue_name")
    list_filter = (StateFilter, RunReasonFilter, FinishedFilter, TaskFilter, WorkflowFilter, GroupFilter)
    search_fields = ("task_id", "task_name", "exception_type")
    search_help_text = _("An exact task id, or parts of the task's name and of the exception's type.")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return search(queryset, search_term, failed=NOT_SUCCESS), False

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        first, *others = self.list_display
        return ("task_and_call" if payload.may_view(request) else first, *others)

    def listed(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        runs = super().listed(request, rows)
        return payload.with_calls(runs) if payload.may_view(request) else runs

    def page(self, request: HttpRequest, row: TaskRun) -> dict[str, Any]:
        return run_page.context(request, row, self.admin_site.name)

    @admin.display(description=_("task"))
    def task(self, run: TaskRun) -> SafeString:
        return display.name_and_id(run)

    @admin.display(description=_("task"))
    def task_and_call(self, run: Any) -> SafeString:
        return display.name_and_id(run, payload.in_short(run))

    @admin.display(description=_("state"))
    def state_and_reason(self, run: TaskRun) -> SafeString:
        badge = display.badge(run.state, run.get_state_display())
        return display.lines(badge, run.get_reason_display(), display.shortened(run.exception_type, 60))

    @admin.display(description=_("enqueued"))
    def enqueued(self, run: TaskRun) -> SafeString | str:
        return display.moment(run.enqueued_at)

    @admin.display(description=_("ran"))
    def took(self, run: TaskRun) -> str:
        return display.between(run.started_at, run.finished_at)

    @admin.display(description=_("attempt"))
    def attempts_made(self, run: TaskRun) -> int:
        return run.retries + 1

    @admin.display(description=_("queue"))
    def queue_name(self, run: TaskRun) -> SafeString | str:
        return display.shortened(run.queue, 40)
