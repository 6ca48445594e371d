"""The edited requeue of one letter: an editor, a review of what is different, then the requeue."""

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.debug import sensitive_post_parameters

from ..exceptions import NotRequeueable
from ..models import DeadLetter
from ..recovery.decide import Decided, person
from ..recovery.editing import Original, difference, drafts, original_of
from ..recovery.intents import Order
from .bulk import Outcome, carry_out
from .deciding import DecidingAdmin, outside_transactions
from .edit_form import EditForm
from .report import sentences
from .verbs import REQUEUE

CARRIED = ("queue", "countdown", "attempts", "starts", "force", "why", "mark")


class EditingAdmin(DecidingAdmin):
    def has_edit_permission(self, request: HttpRequest) -> bool:
        return REQUEUE.allows(request) and request.user.has_perm("taskops.edit_payload")

    def get_urls(self) -> list[URLPattern]:
        view = outside_transactions(self.admin_site.admin_view(self.edit_view))
        return [path("<int:pk>/edit/", view, name="taskops_deadletter_edit"), *super().get_urls()]

    @method_decorator(sensitive_post_parameters("args", "kwargs"))
    def edit_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """GET and `step=edit` show the editor, `step=review` what is different, `step=send` sends it."""
        if not self.has_edit_permission(request):
            raise PermissionDenied
        letter = self.get_queryset(request).select_related("run").filter(pk=pk).first() if pk < 2**63 else None
        if letter is None:
            raise Http404
        try:
            original = _editable(letter)
        except NotRequeueable as refusal:
            return self._page(request, letter, "blocked", {"blocked": refusal.detail})
        if request.method != "POST":
            return self._editor(request, letter, original, EditForm(letter=letter, original=original))
        return self._posted(request, letter, original)

    def _posted(self, request: HttpRequest, letter: DeadLetter, original: Original) -> HttpResponse:
        by = person(request.user)
        added = drafts.find(request.POST.get("draft", ""), letter, by)
        form = EditForm(request.POST, letter=letter, original=original, added=added)
        step = request.POST.get("step")
        if form.is_valid() and step == "send":
            return self._send(request, letter, form)
        if form.edit is not None:
            form = self._with_secrets_hidden(request, letter, original, form)
        if form.is_bound and form.is_valid() and step != "edit":
            return self._review(request, letter, original, form)
        return self._editor(request, letter, original, form)

    def _with_secrets_hidden(
        self, request: HttpRequest, letter: DeadLetter, original: Original, form: EditForm
    ) -> EditForm:
        """The same form, with what was typed in the place of secrets behind tokens."""
        assert form.edit is not None
        key = drafts.keep(letter, person(request.user), form.edit.added)
        data = {**{name: request.POST.get(name, "") for name in CARRIED}, **form.masked(), "draft": key}
        return EditForm(data, letter=letter, original=original, added=form.edit.added)

    def _editor(self, request: HttpRequest, letter: DeadLetter, original: Original, form: EditForm) -> HttpResponse:
        count = len(original.hidden)
        hidden = ngettext(
            "%(count)d value is hidden behind a token such as “[redacted 1]”.",
            "%(count)d values are hidden behind tokens such as “[redacted 1]”.",
            count,
        )
        context = {
            "form": form,
            "original": original,
            "hidden": hidden % {"count": count} if count else "",
            "forceable": letter.pk,
            "force_label": _("Force it: send it though it is refused for a reason that is a matter of judgement"),
        }
        return self._page(request, letter, "edit", context)

    def _review(self, request: HttpRequest, letter: DeadLetter, original: Original, form: EditForm) -> HttpResponse:
        assert form.edit is not None
        context = {
            "form": form,
            "carried": [(name, form.data.get(name, "")) for name in (*CARRIED, "args", "kwargs", "draft")],
            "parts": [(form.fields[part].label, lines) for part, lines in difference(original, form.edit).items()],
            "told": _told(form.cleaned_data, original),
            "why": form.cleaned_data["why"],
            "typed": len(form.edit.added),
        }
        return self._page(request, letter, "review", context)

    def _send(self, request: HttpRequest, letter: DeadLetter, form: EditForm) -> HttpResponse:
        assert form.changes is not None
        cleaned = form.cleaned_data
        decided = Decided(person(request.user), cleaned["why"])
        order = Order(changes=form.changes, decided=decided, force=bool(cleaned["force"]))
        said = " ".join(filter(None, (_("Edited requeue:"), cleaned["why"])))
        outcome = carry_out(REQUEUE, [([letter.pk], order)], [], lambda _pk: self.log_change(request, letter, said))
        if outcome.done:
            drafts.forget(cleaned["draft"], letter)
        self._report(request, outcome)
        return HttpResponseRedirect(
            reverse("admin:taskops_deadletter_change", args=[letter.pk], current_app=self.admin_site.name)
        )

    def _report(self, request: HttpRequest, outcome: Outcome) -> None:
        self.say(request, list(sentences(REQUEUE, outcome)))

    def _page(self, request: HttpRequest, letter: DeadLetter, name: str, context: dict[str, Any]) -> HttpResponse:
        site = self.admin_site
        request.current_app = site.name
        shown = {
            **site.each_context(request),
            "title": _("Edit and requeue"),
            "opts": self.opts,
            "letter": letter,
            "address": reverse("admin:taskops_deadletter_edit", args=[letter.pk], current_app=site.name),
            "way_back": reverse("admin:taskops_deadletter_change", args=[letter.pk], current_app=site.name),
            **context,
        }
        return TemplateResponse(request, f"admin/taskops/deadletter/{name}.html", shown)


def _editable(letter: DeadLetter) -> Original:
    """Raises NotRequeueable where the letter can't be requeued, or not edited."""
    refusal = REQUEUE.refusals([letter]).get(letter.pk)
    if refusal is not None and not refusal.is_a_matter_of_judgement:
        raise NotRequeueable(refusal.code or "not_open", refusal.sentence)
    return original_of(letter)


def _told(wanted: Mapping[str, Any], original: Original) -> list[str]:
    """What is asked for besides the arguments."""
    told = []
    if wanted["queue"]:
        told.append(_("Queue: %(queue)s instead of %(before)s") % {"queue": wanted["queue"], "before": original.queue})
    if wanted["countdown"] is not None:
        told.append(_("It may start after %(seconds)s seconds.") % {"seconds": f"{wanted['countdown']:,g}"})
    starts = wanted["attempts"]
    if starts == "fresh":
        told.append(_("Attempts: the task's own policy, from the start"))
    else:
        told.append(_("Attempts: at most %(count)s") % {"count": 1 if starts == "once" else f"{starts:,}"})
    if wanted["force"]:
        told.append(_("By force: refusals that are a matter of judgement are overruled."))
    return told
