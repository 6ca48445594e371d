"""The quarantine: entries of the journal that could not be applied. To be applied again, or given up for good."""

import logging
from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Length
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.urls import URLPattern, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from ...conf import conf
from ...models import AuditAction, AuditEntry, QuarantinedEntry
from ...projection import service
from ...projection.status import recent_status
from .. import display, payload
from ..base import ReadOnlyAdmin
from ..bulk import MAX_LETTERS
from ..pins import pinned
from ..search import ids_in
from . import entry as recorder_entry
from . import outside_transactions

logger = logging.getLogger("django_taskops")


@admin.register(QuarantinedEntry)
class QuarantinedEntryAdmin(ReadOnlyAdmin):
    actions = ("apply_again", "delete_selected")
    empty_text = _("Nothing is in the quarantine: every entry of the journal could be applied.")
    list_deferred = ("data",)
    list_display = ("entry", "what_failed", "quarantined", "size")
    max_letters = MAX_LETTERS
    search_fields = ("task_id",)
    search_help_text = _("An exact task id.")

    def has_apply_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perms([f"taskops.{verb}_quarantinedentry" for verb in ("view", "change")]))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perms([f"taskops.{verb}_quarantinedentry" for verb in ("view", "delete")]))

    def get_urls(self) -> list[URLPattern]:
        urls: list[URLPattern] = super().get_urls()
        for url in urls:
            url.callback = outside_transactions(url.callback)
        return urls

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        annotated: QuerySet[Any] = super().get_queryset(request).annotate(bytes=Length("data")).defer("data")
        return annotated

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return (queryset.filter(task_id__in=ids_in(search_term)) if search_term.strip() else queryset), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The table may be missing, before `migrate`: the page of the recorder says so."""
        if any(reason.code == "not_migrated" for reason in recent_status().blind):
            return HttpResponseRedirect(reverse("admin:taskops_recorder_changelist", current_app=self.admin_site.name))
        ticked = request.POST.getlist(ACTION_CHECKBOX_NAME)
        if len(pinned(ticked)) != len(set(ticked)):
            raise BadRequest(f"expected keys of quarantined entries, got {ticked}")
        if "apply_again" in request.POST.getlist("action") and not self.has_apply_permission(request):
            raise PermissionDenied
        return super().changelist_view(request, extra_context)

    def page(self, request: HttpRequest, row: QuarantinedEntry) -> dict[str, Any]:
        return {
            **recorder_entry.context(request, row, self.admin_site.name),
            "may_apply": self.has_apply_permission(request),
            "may_discard": self.has_delete_permission(request, row),
        }

    @admin.action(permissions=["apply"], description=_("Apply again"))
    def apply_again(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """On the boxes that were ticked, not on the queryset: what is gone by now is counted."""
        chosen = pinned(request.POST.getlist(ACTION_CHECKBOX_NAME))[: self.max_letters]
        try:
            applied, _left = service.retry_quarantined(chosen)
        except Exception as error:
            logger.exception("django-taskops: applying quarantined entries again failed")
            text = gettext("Nothing was applied: %(error)s. The log has more.") % {"error": type(error).__name__}
            self.message_user(request, text, messages.ERROR)
            return
        self._report(request, applied, len(chosen) - applied)

    def _report(self, request: HttpRequest, applied: int, left: int) -> None:
        if applied or not left:
            text = ngettext("%(count)d entry was applied.", "%(count)d entries were applied.", applied)
            self.message_user(request, text % {"count": applied}, messages.SUCCESS)
        if left:
            text = ngettext(
                "%(count)d entry was not applied: its error is in the list, or it is gone.",
                "%(count)d entries were not applied: their errors are in the list, or they are gone.",
                left,
            )
            self.message_user(request, text % {"count": left}, messages.WARNING)

    @admin.action(permissions=["delete"], description=_("Discard…"))
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        """Django's own, with its page that asks first."""
        return delete_selected(self, request, queryset)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        _discard(request, list(queryset.values_list("pk", flat=True)))

    def delete_model(self, request: HttpRequest, obj: QuarantinedEntry) -> None:
        _discard(request, [obj.pk])

    @admin.display(description=_("entry"))
    def entry(self, row: QuarantinedEntry) -> SafeString:
        name = row.task_id or gettext("no task id")
        return format_html(
            '<span class="taskops-name">{}</span> <span class="taskops-id">{} · {}</span>',
            display.shortened(name, 60),
            row.source,
            display.shortened(row.key, 60),
        )

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        first, what, *others = self.list_display
        return (first, "why" if payload.may_view(request) else what, *others)

    @admin.display(description=_("error"))
    def why(self, row: QuarantinedEntry) -> SafeString | str:
        return display.shortened(row.error, 160)

    @admin.display(description=_("error"))
    def what_failed(self, row: QuarantinedEntry) -> SafeString | str:
        return recorder_entry.kind_of_error(row)

    @admin.display(description=_("quarantined at"))
    def quarantined(self, row: QuarantinedEntry) -> SafeString | str:
        return display.moment(row.quarantined_at)

    @admin.display(description=_("size"))
    def size(self, row: Any) -> str:
        return filesizeformat(row.bytes)


def _discard(request: HttpRequest, chosen: Sequence[int]) -> None:
    """Deletes, and says in the audit entries who did."""
    with transaction.atomic(using=conf.DATABASE):
        entries = QuarantinedEntry.objects.select_for_update().defer("data").filter(pk__in=chosen)
        AuditEntry.objects.bulk_create(_audited(request, entry) for entry in entries)
        QuarantinedEntry.objects.filter(pk__in=chosen).delete()


def _audited(request: HttpRequest, entry: QuarantinedEntry) -> AuditEntry:
    return AuditEntry(
        action=AuditAction.DISCARD,
        user_id=str(request.user.pk),
        user_name=request.user.get_username()[:255],
        object_type="quarantined_entry",
        object_id=str(entry.pk),
        task_id=entry.task_id,
        outcome="deleted",
        details={"journal": entry.source, "entry": entry.key, "quarantined_at": entry.quarantined_at.isoformat()},
    )
