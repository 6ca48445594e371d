"""The status JSON. Denied by default: who may not see a run gets the same answer as for one that is not there."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db.models import Prefetch
from django.http import Http404, HttpRequest, JsonResponse
from django.utils.module_loading import import_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..capture.text import storable_id
from ..conf import conf
from ..models import TaskAttempt, TaskRun

MAX_IDS = 100

_HEAVY = ("args", "kwargs", "traceback")


@require_safe
@never_cache
def status(request: HttpRequest, task_id: str) -> JsonResponse:
    """The status of one run. Raises Http404 where there is none, or none for this user."""
    found = _visible(request, [task_id])
    if not found:
        raise Http404("no such task")
    return JsonResponse(_status(found[0], request))


@require_safe
@never_cache
def statuses(request: HttpRequest) -> JsonResponse:
    """`?ids=a,b` or `?ids=a&ids=b`, at most 100: those that are there and visible, under "tasks"; the rest is left
    out. An id with a comma in it has a parameter of its own: `?id=a,b`."""
    ids = [part for value in request.GET.getlist("ids") for part in value.split(",") if part]
    ids += request.GET.getlist("id")
    if not ids or len(ids) > MAX_IDS:
        return JsonResponse({"error": f"ids: expected 1 to {MAX_IDS} task ids, got {len(ids)}"}, status=400)
    return JsonResponse({"tasks": [_status(run, request) for run in _visible(request, ids)]})


def _visible(request: HttpRequest, ids: Iterable[str]) -> list[TaskRun]:
    runs = TaskRun.objects.filter(task_id__in={storable_id(task_id) for task_id in ids}).defer(*_HEAVY)
    runs = runs.prefetch_related(Prefetch("attempts", TaskAttempt.objects.defer("traceback", "frames")))
    return [run for run in runs.order_by("pk") if _may_see(request, run)]


def _may_see(request: HttpRequest, run: TaskRun) -> bool:
    """The project's `STATUS_PERMISSION`, a callable of request and run, where it is set; else `view_taskrun`."""
    if conf.STATUS_PERMISSION:
        return bool(import_string(conf.STATUS_PERMISSION)(request, run))
    return _has_permission(request, "taskops.view_taskrun")


def _has_permission(request: HttpRequest, permission: str) -> bool:
    user = getattr(request, "user", None)
    return user is not None and user.has_perm(permission)


def _status(run: TaskRun, request: HttpRequest) -> Mapping[str, Any]:
    shown: dict[str, Any] = {
        "task_id": run.task_id,
        "task_name": run.task_name,
        "state": run.state,
        "ready": run.ready,
        "successful": run.successful,
        "attempts": run.starts(),
        "progress": run.progress,
        "enqueued_at": _text(run.enqueued_at),
        "started_at": _text(run.started_at),
        "finished_at": _text(run.finished_at) if run.ready else None,
        "retry_at": _text(run.retry_at),
        "reason": run.reason,
    }
    if _has_permission(request, "taskops.view_payload"):
        shown |= {"result": run.result, "error": run.exception_message or None}
    return shown


def _text(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None
