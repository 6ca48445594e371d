"""How a person decides on dead letters: choose, review what will happen and say why, then send the form."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from ..recovery.decide import Decided, person
from ..recovery.intents import Order
from ..recovery.message import Changes
from . import payload
from .base import ReadOnlyAdmin
from .bulk import MAX_LETTERS, carry_out, review
from .forms import EACH, WhyForm
from .pins import as_text, chosen_in, pinned
from .report import sentences
from .verbs import DISCARD, REQUEUE, RESTORE, VERBS, Verb

LISTED = 20
RUN_COLUMNS_NOT_REVIEWED = ("args", "kwargs", "result", "progress", "exception_message", "traceback")


class DecidingAdmin(ReadOnlyAdmin):
    """Actions on the list and one address for each verb, all behind the verb's own permission."""

    actions = ("requeue", "discard", "restore")
    max_letters: ClassVar[int] = MAX_LETTERS
    max_pinned: ClassVar[int] = MAX_LETTERS

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
        return outside_transactions(self.admin_site.admin_view(partial(self.decide_view, verb)))

    def decide_view(self, verb: Verb, request: HttpRequest) -> HttpResponse:
        """GET asks, POST carries out, on the letters named in the request, whatever the lists show by now."""
        if not verb.allows(request):
            raise PermissionDenied
        posted = request.method == "POST"
        form = verb.form(request.POST if posted else None, needs_why=verb.needs_why)
        chosen = chosen_in(request)
        if not self._countable(request, len(chosen)):
            return self._back(request)
        if not form.is_valid():
            return self.confirm(verb, request, chosen, form)
        return self.carry_out(verb, request, chosen, form.cleaned_data)

    def _confirm_ticked(self, verb: Verb, request: HttpRequest) -> HttpResponse | None:
        """Takes the boxes that were ticked, not the queryset: what has changed since then is reported, not dropped."""
        across = request.POST.get("select_across") == "1"
        chosen = self.pinned_across(request) if across else pinned(request.POST.getlist(ACTION_CHECKBOX_NAME))
        if not self._countable(request, len(chosen)):
            return None
        return self.confirm(verb, request, chosen, verb.form(needs_why=verb.needs_why))

    def _countable(self, request: HttpRequest, count: int) -> bool:
        if count > self.max_pinned:
            text = gettext("Choose at most %(max)s dead letters at a time. Nothing was changed.")
            self.message_user(request, text % {"max": f"{self.max_pinned:,}"}, messages.WARNING)
        elif not count:
            self.message_user(request, gettext("No dead letter was chosen. Nothing was changed."), messages.WARNING)
        return 0 < count <= self.max_pinned

    def pinned_across(self, request: HttpRequest) -> list[int]:
        """The letters that the list shows on all its pages."""
        raise NotImplementedError

    def confirm(self, verb: Verb, request: HttpRequest, chosen: Sequence[int], form: WhyForm) -> HttpResponse:
        with_calls = payload.may_view(request)
        found = review(verb, self._reviewed(request, chosen), chosen, with_calls=with_calls)
        context = {
            **self.confirmation(verb, request, form),
            "review": found,
            "will": verb.will % {"count": found.ready},
            "chosen": chosen,
            "listed": found.rows[:LISTED],
            "unlisted": found.rows[LISTED:],
            "forceable": as_text(found.forceable),
            "force_label": _force_label(len(found.forceable)),
        }
        return TemplateResponse(request, "admin/taskops/deadletter/decide.html", context)

    def confirmation(self, verb: Verb, request: HttpRequest, form: WhyForm) -> dict[str, Any]:
        """What each page shows that asks for a confirmation."""
        site = self.admin_site
        request.current_app = site.name
        address = reverse(f"admin:taskops_deadletter_{verb.name}", current_app=site.name)
        return {
            **site.each_context(request),
            "title": verb.title,
            "opts": self.opts,
            "verb": verb,
            "form": form,
            "address": self._keeping_filters(request, address),
            "way_back": self._way_back(request),
            "back": _asked_back(request),
        }

    def letters(self, request: HttpRequest, chosen: Sequence[int]) -> QuerySet[Any]:
        return self.get_queryset(request).filter(pk__in=chosen).order_by("pk")

    def _reviewed(self, request: HttpRequest, chosen: Sequence[int]) -> QuerySet[Any]:
        """With their runs, without what may be large of these and no review shows."""
        large = (f"run__{column}" for column in RUN_COLUMNS_NOT_REVIEWED)
        letters = self.letters(request, chosen).select_related("run").defer(*large)
        return payload.with_calls_of_runs(letters) if payload.may_view(request) else letters

    def carry_out(
        self, verb: Verb, request: HttpRequest, chosen: Sequence[int], wanted: Mapping[str, Any]
    ) -> HttpResponse:
        said = f"{verb.label}: {wanted['why']}" if wanted["why"] else str(verb.label)
        letters = {letter.pk: letter for letter in self.letters(request, chosen).defer("envelope")}

        def log(pk: int) -> None:
            self.log_change(request, letters[pk], said)

        missing = [pk for pk in chosen if pk not in letters]
        outcome = carry_out(verb, orders(list(letters), request.user, wanted), missing, log)
        self.say(request, list(sentences(verb, outcome)))
        return self._back(request)

    def say(self, request: HttpRequest, report: Sequence[str]) -> None:
        """One sentence alone is good news."""
        for line in report:
            self.message_user(request, line, messages.WARNING if len(report) > 1 else messages.SUCCESS)

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


def outside_transactions(view: Any) -> Any:
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def orders(letters: Sequence[int], user: Any, wanted: Mapping[str, Any]) -> list[tuple[Sequence[int], Order]]:
    """What was asked for; of a requeue by force, only for those letters that were shown beside its box."""
    changes = Changes.checked(attempts=wanted.get("attempts", "fresh"))
    order = Order(changes=changes, decided=Decided(person(user), wanted["why"]))
    force = wanted.get("force", frozenset())
    forced = [pk for pk in letters if force == EACH or pk in force]
    others = [pk for pk in letters if pk not in set(forced)]
    return [(others, order), (forced, replace(order, force=True))]


def _force_label(count: int) -> str:
    text = ngettext(
        "Force it: send %(count)d refused task all the same",
        "Force them: send %(count)d refused tasks all the same",
        count,
    )
    return text % {"count": count}


def _asked_back(request: HttpRequest) -> int | None:
    back = pinned((request.POST if request.method == "POST" else request.GET).getlist("back"))
    return back[0] if back else None
