"""The status JSON. Denied by default: who may not see a run gets the same answer as for one that is not there."""

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch, prefetch_related_objects
from django.http import Http404, HttpRequest, JsonResponse
from django.utils import timezone
from django.utils.module_loading import import_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..capture.text import storable_id
from ..conf import conf
from ..models import TaskAttempt, TaskRun

MAX_IDS = 100

logger = logging.getLogger("django_taskops")

_HEAVY = ("args", "kwargs", "traceback")


@require_safe
@never_cache
def status(request: HttpRequest, task_id: str) -> JsonResponse:
    """The status of one run; 404 where there is none, or none for this user."""
    found = _statuses(request, [task_id])
    return JsonResponse(found[0]) if found else JsonResponse({"error": "no such task"}, status=404)


@require_safe
@never_cache
def statuses(request: HttpRequest) -> JsonResponse:
    """`?ids=a,b` or `?ids=a&ids=b`, at most 100: those that are there and visible, under "tasks"; the rest is left
    out. An id with a comma in it has a parameter of its own: `?id=a,b`."""
    ids = [part for value in request.GET.getlist("ids") for part in value.split(",") if part]
    ids += request.GET.getlist("id")
    if not ids or len(ids) > MAX_IDS:
        return JsonResponse({"error": f"ids: expected 1 to {MAX_IDS} task ids, got {len(ids)}"}, status=400)
    return JsonResponse({"tasks": _statuses(request, ids)})


def _statuses(request: HttpRequest, ids: Iterable[str]) -> list[Mapping[str, Any]]:
    """Those of the runs that this user may see. Who may see none costs no query, whatever the ids."""
    may_see = _judge(request)
    if may_see is None:
        return []
    runs = TaskRun.objects.filter(task_id__in={storable_id(task_id) for task_id in ids}).defer(*_HEAVY)
    visible = [run for run in runs.order_by("pk") if may_see(run)]
    prefetch_related_objects(visible, Prefetch("attempts", TaskAttempt.objects.defer("traceback", "frames")))
    return [_status(run, request) for run in visible]


def _judge(request: HttpRequest) -> Callable[[TaskRun], bool] | None:
    """Says of a run whether this user may see it: the project's `STATUS_PERMISSION` where it is set, else
    `view_taskrun` for all of them. None where the answer is no in any case.

    The session is read in any case, so that no header tells runs that are there from those that are not.
    """
    permitted = _has_permission(request, "taskops.view_taskrun")
    if conf.STATUS_PERMISSION:
        return partial(_permits, import_string(conf.STATUS_PERMISSION), request)
    return (lambda _run: True) if permitted else None


def _permits(decides: Callable[[HttpRequest, TaskRun], object], request: HttpRequest, run: TaskRun) -> bool:
    """Only True permits: a function that fails, or that nobody awaits, hides the run as if it were not there."""
    try:
        return decides(request, run) is True
    except (PermissionDenied, Http404):
        return False
    except Exception:
        logger.exception("django-taskops: STATUS_PERMISSION failed, the run is hidden")
        return False


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
    """In UTC, whatever the project has in its rows: a front end knows nothing of its time zone."""
    if instant is None:
        return None
    aware = timezone.make_aware(instant) if timezone.is_naive(instant) else instant
    return aware.astimezone(UTC).isoformat()
