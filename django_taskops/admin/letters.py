"""Dead letters: the list of what waits for a person, and the page of one."""

from typing import Any

from django.contrib import admin
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..models import DeadLetter
from ..recovery import parking
from ..states import LetterStatus
from . import display, letter_page, payload
from .filters import DiedFilter, LetterReasonFilter, StatusFilter, TaskFilter
from .handing_over import HandingOverAdmin
from .search import search

HAS_ENVELOPE = ExpressionWrapper(Q(envelope__isnull=False), output_field=BooleanField())


@admin.register(DeadLetter)
class DeadLetterAdmin(HandingOverAdmin):
    empty_text = _("No dead letters. Nothing waits for you.")
    list_deferred = ("envelope",)
    list_display = ("task", "why_it_died", "died", "state")
    list_filter = (StatusFilter, LetterReasonFilter, DiedFilter, TaskFilter)
    search_fields = ("task_id", "task_name", "exception_type")
    search_help_text = _("An exact task id, or parts of the task's name and of the exception's type.")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        letters = super().get_queryset(request)
        annotated: QuerySet[Any] = letters.annotate(has_envelope=HAS_ENVELOPE)
        return annotated

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return search(queryset, search_term, failed=Q()), False

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        first, *others = self.list_display
        return ("task_and_call" if payload.may_view(request) else first, *others)

    def listed(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        letters = super().listed(request, rows)
        return payload.with_calls_of_runs(letters) if payload.may_view(request) else letters

    def page(self, request: HttpRequest, row: DeadLetter) -> dict[str, Any]:
        return letter_page.context(request, row, self.admin_site.name, may_edit=self.has_edit_permission(request))

    @admin.display(description=_("task"))
    def task(self, letter: DeadLetter) -> SafeString:
        return display.name_and_id(letter)

    @admin.display(description=_("task"))
    def task_and_call(self, letter: Any) -> SafeString:
        return display.name_and_id(letter, payload.in_short(letter))

    @admin.display(description=_("why it died"))
    def why_it_died(self, letter: DeadLetter) -> SafeString:
        exception = letter.description if letter.exception_type else ""
        return display.lines(display.strong(letter.get_reason_display()), display.shortened(exception, 120))

    @admin.display(description=_("died"))
    def died(self, letter: DeadLetter) -> SafeString | str:
        return display.moment(letter.died_at)

    @admin.display(description=_("status"))
    def state(self, letter: Any) -> SafeString:
        """With the generation of a re-run that died again, and why an open letter can't be run again; and whether
        Celery waits for it."""
        badge = display.badge(letter.status, letter.get_status_display())
        again = gettext("generation %(number)s") % {"number": letter.generation} if letter.generation else ""
        waits = gettext("parked") if parking.is_waiting(letter) else ""
        return display.lines(badge, waits, again, display.shortened(_not_rerunnable(letter), 80))


def _not_rerunnable(letter: Any) -> str:
    if letter.status != LetterStatus.OPEN or letter.has_envelope:
        return ""
    why = letter.envelope_error or gettext("its message was never recorded")
    return gettext("not re-runnable: %(why)s") % {"why": why}
