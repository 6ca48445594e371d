"""Decisions on more letters than a page can show: counted, confirmed, and left to a worker, with a page of how far it
has come."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from django.contrib import messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _

from ..recovery import bulk
from ..recovery.bulk import MAX_LETTERS as MAX_PINNED
from ..states import LetterStatus
from . import bulk_page
from .deciding import orders
from .editing import EditingAdmin
from .forms import EACH, WhyForm
from .pins import as_text
from .verbs import VERBS, Verb


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was chosen, by status and by whether there is a message."""

    selected: int
    by_status: Sequence[tuple[str, int]]
    ready: int
    without_message: int
    missing: int


class HandingOverAdmin(EditingAdmin):
    max_pinned = MAX_PINNED

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        own = [
            path("runs/", view(self.runs_view), name="taskops_deadletter_runs"),
            path("runs/<int:pk>/stop/", view(self.stop_view), name="taskops_deadletter_stop"),
        ]
        return [*own, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        told = {"bulk_under_way": bulk.is_under_way()} if request.method == "GET" else {}
        return super().changelist_view(request, {**told, **(extra_context or {})})

    def pinned_across(self, request: HttpRequest) -> list[int]:
        """What the list shows on all its pages, pinned now: the newest, where there are too many."""
        try:
            shown = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters:
            return []
        pks = list(shown.values_list("pk", flat=True)[: MAX_PINNED + 1])
        if len(pks) > MAX_PINNED:
            text = _("These are the newest %(max)s of what the list shows. The others stay as they are.")
            self.message_user(request, text % {"max": f"{MAX_PINNED:,}"}, messages.WARNING)
        return sorted(pks[:MAX_PINNED])

    def confirm(self, verb: Verb, request: HttpRequest, chosen: Sequence[int], form: WhyForm) -> HttpResponse:
        if len(chosen) <= self.max_letters:
            return super().confirm(verb, request, chosen, form)
        counts = self._count(verb, request, chosen)
        context = {
            **self.confirmation(verb, request, form),
            "counts": counts,
            "will": verb.will % {"count": counts.ready},
            "chosen": as_text(chosen),
            "key": _key(request),
            "forceable": EACH,
            "force_label": _("Force it: send what is refused for a reason that is a matter of judgement all the same"),
            "nobody": bulk_page.nobody_works(),
        }
        return TemplateResponse(request, "admin/taskops/deadletter/decide_many.html", context)

    def carry_out(
        self, verb: Verb, request: HttpRequest, chosen: Sequence[int], wanted: Mapping[str, Any]
    ) -> HttpResponse:
        if len(chosen) <= self.max_letters:
            return super().carry_out(verb, request, chosen, wanted)
        letters = list(self.letters(request, chosen).values_list("pk", flat=True))
        (_others, order), (_forced, forced) = orders([], request.user, wanted)
        order = forced if wanted.get("force") == EACH else order
        if bulk.hand_over(_key(request), verb.action, letters, order):
            self.message_user(request, _("It is handed over to the workers. This page says how far they are."))
        else:
            self.message_user(request, _("This has been handed over already. Nothing was added."), messages.WARNING)
        return HttpResponseRedirect(self._runs())

    def runs_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        request.current_app = self.admin_site.name
        may = frozenset(verb.action for verb in VERBS if verb.allows(request))
        context = {
            **self.admin_site.each_context(request),
            "title": _("Bulk runs"),
            "opts": self.opts,
            **bulk_page.context(self.admin_site.name, may),
        }
        return TemplateResponse(request, "admin/taskops/deadletter/runs.html", context)

    def stop_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """For those who might have begun it."""
        run = bulk.find(pk) if pk < 2**63 else None
        verb = next((verb for verb in VERBS if run is not None and verb.action == run.action), None)
        if not self.has_view_permission(request) or verb is None or not verb.allows(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if bulk.stop(pk, request.user.get_username()):
            self.message_user(request, _("The run is stopped. What it has not come to stays as it is."))
        else:
            self.message_user(request, _("The run had ended already."), messages.WARNING)
        return HttpResponseRedirect(self._runs())

    def _runs(self) -> str:
        return reverse("admin:taskops_deadletter_runs", current_app=self.admin_site.name)

    def _count(self, verb: Verb, request: HttpRequest, chosen: Sequence[int]) -> Counts:
        """In one query, whatever their number."""
        rows = self.get_queryset(request).filter(pk__in=chosen).order_by()
        grouped = (
            rows.values("status", "has_envelope")
            .annotate(number=Count("pk"))
            .values_list("status", "has_envelope", "number")
        )
        by_status: Counter[str] = Counter()
        ready = without_message = 0
        for status, has_message, number in grouped:
            by_status[status] += number
            if status == verb.status and verb.sends and not has_message:
                without_message += number
            elif status == verb.status:
                ready += number
        return Counts(
            selected=len(chosen),
            by_status=[(str(LetterStatus(status).label), number) for status, number in by_status.most_common()],
            ready=ready,
            without_message=without_message,
            missing=len(chosen) - sum(by_status.values()),
        )


def _key(request: HttpRequest) -> str:
    """One for each confirmation, so that it is handed over once however often it is sent."""
    given = request.POST.get("key", "")
    return given if len(given) == 32 and given.isalnum() and given.isascii() else token_hex(16)
