"""Workers: who lives, what each of them runs and holds, and what waits in the queues that they read."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse
from django.utils.text import capfirst

from ..models import WorkerBeat
from ..recovery import workers
from . import workers_page
from .base import ReadOnlyAdmin


@admin.register(WorkerBeat)
class WorkerBeatAdmin(ReadOnlyAdmin):
    """The list is a page of ours: live workers come first, however many boots are stored."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return workers.with_clock(super().get_queryset(request))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": capfirst(self.opts.verbose_name_plural),
            "opts": self.opts,
            **workers_page.list_context(),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/taskops/workerbeat/list.html", context)

    def page(self, request: HttpRequest, row: WorkerBeat) -> dict[str, Any]:
        return workers_page.context(request, row, self.admin_site.name)
