"""Audit entries: who decided what, when and why."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.db.models.lookups import IStartsWith
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from ..capture.text import storable_id
from ..models import AuditEntry, DeadLetter
from . import display, payload
from .base import ReadOnlyAdmin
from .facts import Fact
from .filters import ActionFilter, DecidedFilter
from .search import AnyCase, ids_in

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

CALL = frozenset({"args", "kwargs"})
DETAILS: Mapping[str, "StrOrPromise"] = {
    "generation": _("Generation"),
    "attempts": _("Attempts, at most"),
    "queue": _("Queue"),
    "countdown": _("Countdown, in seconds"),
    "force": _("By force"),
}


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    empty_text = _("Nobody has decided anything yet. Each requeue, discard and restore leaves an entry here.")
    list_deferred = ("details",)
    list_display = ("what", "when", "who", "task", "reason", "result")
    list_filter = (ActionFilter, DecidedFilter)
    search_fields = ("task_id", "user_name")
    search_help_text = _("An exact task id, or the start of a user's name.")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = storable_id(search_term.strip())
        if not term:
            return queryset, False
        return queryset.filter(Q(task_id__in=ids_in(search_term)) | Q(IStartsWith(AnyCase("user_name"), term))), False

    def page(self, request: HttpRequest, row: AuditEntry) -> dict[str, Any]:
        letter = _letter(request, row)
        facts = [
            Fact(label=_("When"), value=display.moment(row.at), note=display.exactly(row.at)),
            Fact(label=_("Who"), value=self.who(row)),
            Fact(label=_("Why"), value=row.why),
            Fact(label=_("Outcome"), value=row.outcome),
            Fact(label=_("Dead letter"), value=display.link(letter, letter, self.admin_site.name) if letter else ""),
            Fact(label=_("Task id"), value=row.task_id),
            *_details(row),
        ]
        shown = {"entry": row, "facts": [fact for fact in facts if fact.value]}
        return {**shown, **_edited_call(request, row, letter)}

    @admin.display(description=_("action"))
    def what(self, entry: AuditEntry) -> str:
        return entry.get_action_display()

    @admin.display(description=_("when"))
    def when(self, entry: AuditEntry) -> SafeString | str:
        return display.moment(entry.at)

    @admin.display(description=_("who"))
    def who(self, entry: AuditEntry) -> str:
        return entry.user_name or str(_("the app itself"))

    @admin.display(description=_("task id"))
    def task(self, entry: AuditEntry) -> SafeString:
        return format_html('<span class="taskops-id">{}</span>', display.shortened(entry.task_id, 60))

    @admin.display(description=_("why"))
    def reason(self, entry: AuditEntry) -> SafeString | str:
        return display.shortened(entry.why, 80)

    @admin.display(description=_("outcome"))
    def result(self, entry: AuditEntry) -> SafeString | str:
        return display.shortened(entry.outcome, 80)


def _details(entry: AuditEntry) -> Iterator[Fact]:
    """What the decision said besides who and why; arguments have a place of their own."""
    others = entry.details
    if isinstance(others, dict):
        others = {name: value for name, value in others.items() if name not in CALL}
        for name in [name for name in DETAILS if name in others]:
            value = others.pop(name)
            yield Fact(label=DETAILS[name], value=_option(value))
    yield Fact(label=_("Details"), value=display.code(others) if others else "")


def _option(value: object) -> str:
    if value is True:
        return str(_("yes"))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _edited_call(request: HttpRequest, entry: AuditEntry, letter: DeadLetter | None) -> dict[str, Any]:
    """The arguments that somebody has put in the place of the original ones, for those who may see any."""
    details = entry.details if isinstance(entry.details, dict) else {}
    if not CALL & set(details):
        return {"edited": False}
    if not payload.may_view(request):
        return {"edited": True, "may_view_payload": False}
    name = letter.task_name if letter else ""
    call = display.call_as_code(name, details.get("args"), details.get("kwargs"))
    return {"edited": True, "may_view_payload": True, "call": call}


def _letter(request: HttpRequest, entry: AuditEntry) -> DeadLetter | None:
    """The letter that was decided on, for those who may see it."""
    if entry.object_type != "dead_letter" or not entry.object_id.isdecimal():
        return None
    if not request.user.has_perm("taskops.view_deadletter"):
        return None
    found: DeadLetter | None = DeadLetter.objects.defer("envelope").filter(pk=entry.object_id).first()
    return found
