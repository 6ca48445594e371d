"""The recorder: what waits in the journal, who drains it, what was lost. One page; it reads, and drains on request."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ... import journal
from ...models import Recorder
from ...projection import service
from ...projection.drain import Drained
from ...projection.status import SourceStatus, read_status
from ..base import ReadOnlyAdmin
from . import page

DRAIN_SECONDS = 5.0

logger = logging.getLogger("django_taskops")


@admin.register(Recorder)
class RecorderAdmin(ReadOnlyAdmin):
    """The rows are parts of the page: there is no list of them, and no page for one."""

    def has_drain_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perms(["taskops.view_recorder", "taskops.change_recorder"]))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("", view(self.changelist_view), name="taskops_recorder_changelist"),
            path("drain/", outside_transactions(view(self.drain_view)), name="taskops_recorder_drain"),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": self.opts.verbose_name,
            "opts": self.opts,
            "may_drain": self.has_drain_permission(request),
            **page.context(read_status()),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/taskops/recorder/panel.html", context)

    def drain_view(self, request: HttpRequest) -> HttpResponse:
        """Drains for some seconds, in the database connection of the drain."""
        if not self.has_drain_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        for level, text in _drain():
            self.message_user(request, text, level)
        return HttpResponseRedirect(reverse("admin:taskops_recorder_changelist", current_app=self.admin_site.name))


def outside_transactions(view: Any) -> Any:
    """Outside ATOMIC_REQUESTS, on each database: the drain has a connection of its own, and would wait for ours."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def _drain() -> Iterable[tuple[int, str]]:
    try:
        done = service.drain_once(journal.sources(), DRAIN_SECONDS)
    except Exception as error:
        logger.exception("django-taskops: draining by hand failed")
        text = _("Draining has failed: %(error)s. The log has more.") % {"error": type(error).__name__}
        return [(messages.ERROR, text)]
    if journal.kind() == "direct":
        return [(messages.INFO, _("There is nothing to drain: each event is written to the database at once."))]
    turns = {drained.source for drained in done}
    left = [source for source in read_status().sources if source.name not in turns]
    return [*(_report(done) if done else ()), *((messages.WARNING, _why_not(source)) for source in left)]


def _report(done: Sequence[Drained]) -> Iterator[tuple[int, str]]:
    applied, quarantined = sum(each.applied for each in done), sum(each.quarantined for each in done)
    if applied or not quarantined:
        text = ngettext("%(count)d event was applied.", "%(count)d events were applied.", applied)
        yield messages.SUCCESS, text % {"count": applied}
    if quarantined:
        text = ngettext(
            "%(count)d entry could not be applied and lies in the quarantine.",
            "%(count)d entries could not be applied and lie in the quarantine.",
            quarantined,
        )
        yield messages.WARNING, text % {"count": quarantined}


def _why_not(source: SourceStatus) -> str:
    words = {"source": source.name, "holder": source.backlog.holder if source.backlog else ""}
    if source.backlog is None:
        return _("The %(source)s journal was not drained: it can't be reached.") % words
    if source.backlog.refused:
        return _("The %(source)s journal was not drained: it belongs to another database.") % words
    if source.backlog.holder:
        return _("The %(source)s journal was not drained: %(holder)s drains it already.") % words
    return _("The %(source)s journal was not drained: another process was about to. Try again.") % words
