"""How a person decides on dead letters: choose, review what will happen and say why, then send the form."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.core.exceptions import PermissionDenied
from django.db import connections, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from . import payload
from .base import ReadOnlyAdmin
from .bulk import MAX_LETTERS, carry_out, pinned, review
from .report import sentences
from .verbs import DISCARD, REQUEUE, RESTORE, VERBS, Verb, WhyForm

LISTED = 20
RUN_COLUMNS_NOT_REVIEWED = ("args", "kwargs", "result", "progress", "exception_message", "traceback")


class DecidingAdmin(ReadOnlyAdmin):
    """Actions on the list and one address for each verb, all behind the verb's own permission."""

    actions = ("requeue", "discard", "restore")
    max_letters: ClassVar[int] = MAX_LETTERS

    def has_requeue_permission(self, request: HttpRequest) -> bool:
        return REQUEUE.allows(request)

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return DISCARD.allows(request)

    def has_restore_permission(self, request: HttpRequest) -> bool:
        return RESTORE.allows(request)

    @admin.action(permissions=["requeue"], description=_("Requeue…"))
    def requeue(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        return self._confirm_ticked(REQUEUE, request)

    @admin.action(permissions=["discard"], description=_("Discard…"))
    def discard(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        return self._confirm_ticked(DISCARD, request)

    @admin.action(permissions=["restore"], description=_("Restore…"))
    def restore(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        return self._confirm_ticked(RESTORE, request)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Handles our actions before Django does, which would look up the boxes unchecked, and say of an action that is
        not permitted that none was chosen."""
        verb = next((verb for verb in VERBS if verb.name in request.POST.getlist("action")), None)
        if verb is None:
            return super().changelist_view(request, extra_context)
        if not verb.allows(request):
            raise PermissionDenied
        return self._confirm_ticked(verb, request) or HttpResponseRedirect(request.get_full_path())

    def get_urls(self) -> list[URLPattern]:
        own = [path(f"{verb.name}/", self._view(verb), name=f"taskops_deadletter_{verb.name}") for verb in VERBS]
        return [*own, *super().get_urls()]

    def _view(self, verb: Verb) -> Any:
        """Outside ATOMIC_REQUESTS, on each database: what a requeue has sent can't be rolled back."""
        view: Any = self.admin_site.admin_view(partial(self.decide_view, verb))
        for alias in connections:
            view = transaction.non_atomic_requests(using=alias)(view)
        return view

    def decide_view(self, verb: Verb, request: HttpRequest) -> HttpResponse:
        """GET asks, POST carries out, on the letters named in the request, whatever the lists show by now."""
        if not verb.allows(request):
            raise PermissionDenied
        posted = request.method == "POST"
        form = WhyForm(verb, request.POST if posted else None)
        chosen = pinned((request.POST if posted else request.GET).getlist("letter"))
        if not self._countable(request, len(chosen)):
            return self._back(request)
        if not form.is_valid():
            return self._confirm(verb, request, chosen, form)
        self._carry_out(verb, request, chosen, form.cleaned_data["why"])
        return self._back(request)

    def _confirm_ticked(self, verb: Verb, request: HttpRequest) -> HttpResponse | None:
        """Takes the boxes that were ticked, not the queryset: what has changed since then is reported, not dropped."""
        if request.POST.get("select_across") == "1":
            self._say_too_many(request)
            return None
        chosen = pinned(request.POST.getlist(ACTION_CHECKBOX_NAME))
        if not self._countable(request, len(chosen)):
            return None
        return self._confirm(verb, request, chosen, WhyForm(verb))

    def _countable(self, request: HttpRequest, count: int) -> bool:
        if count > self.max_letters:
            self._say_too_many(request)
        elif not count:
            self.message_user(request, gettext("No dead letter was chosen. Nothing was changed."), messages.WARNING)
        return 0 < count <= self.max_letters

    def _say_too_many(self, request: HttpRequest) -> None:
        text = gettext("Choose at most %(max)d dead letters at a time. Nothing was changed.") % {
            "max": self.max_letters
        }
        self.message_user(request, text, messages.WARNING)

    def _confirm(self, verb: Verb, request: HttpRequest, chosen: Sequence[int], form: WhyForm) -> HttpResponse:
        with_calls = payload.may_view(request)
        found = review(verb, self._reviewed(request, chosen), chosen, with_calls=with_calls)
        site = self.admin_site
        request.current_app = site.name
        address = reverse(f"admin:taskops_deadletter_{verb.name}", current_app=site.name)
        context = {
            **site.each_context(request),
            "title": verb.title,
            "opts": self.opts,
            "verb": verb,
            "review": found,
            "will": verb.will % {"count": found.ready},
            "chosen": chosen,
            "listed": found.rows[:LISTED],
            "unlisted": found.rows[LISTED:],
            "form": form,
            "address": self._keeping_filters(request, address),
            "way_back": self._way_back(request),
            "back": _asked_back(request),
        }
        return TemplateResponse(request, "admin/taskops/deadletter/decide.html", context)

    def _letters(self, request: HttpRequest, chosen: Sequence[int]) -> QuerySet[Any]:
        return self.get_queryset(request).filter(pk__in=chosen).order_by("pk")

    def _reviewed(self, request: HttpRequest, chosen: Sequence[int]) -> QuerySet[Any]:
        """With their runs, without what may be large of these and no review shows."""
        large = (f"run__{column}" for column in RUN_COLUMNS_NOT_REVIEWED)
        letters = self._letters(request, chosen).select_related("run").defer(*large)
        return payload.with_calls_of_runs(letters) if payload.may_view(request) else letters

    def _carry_out(self, verb: Verb, request: HttpRequest, chosen: Sequence[int], why: str) -> None:
        said = f"{verb.label}: {why}" if why else str(verb.label)
        found = self._letters(request, chosen)
        outcome = carry_out(verb, found, request.user, why, partial(self.log_change, request, message=said))
        first, *others = sentences(verb, outcome, len(chosen))
        self.message_user(request, first, messages.WARNING if others else messages.SUCCESS)
        for line in others:
            self.message_user(request, line, messages.WARNING)

    def _back(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(self._way_back(request))

    def _way_back(self, request: HttpRequest) -> str:
        """To the letter's own page where the decision started there, else to the list as it was."""
        letter = _asked_back(request)
        if letter is not None:
            return reverse("admin:taskops_deadletter_change", args=[letter], current_app=self.admin_site.name)
        return self._keeping_filters(
            request, reverse("admin:taskops_deadletter_changelist", current_app=self.admin_site.name)
        )

    def _keeping_filters(self, request: HttpRequest, address: str) -> str:
        kept: dict[str, Any] = {"preserved_filters": self.get_preserved_filters(request), "opts": self.opts}
        return add_preserved_filters(kept, address)


def _asked_back(request: HttpRequest) -> int | None:
    back = pinned((request.POST if request.method == "POST" else request.GET).getlist("back"))
    return back[0] if back else None
