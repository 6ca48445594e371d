"""What the pages of the workers show. A constant number of queries, however many workers and queues there are."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ..events import Held
from ..models import TaskRun, WorkerBeat
from ..recovery import queues, workers
from ..recovery.queues import QueueLook
from ..recovery.workers import SeenWorker, WorkerState
from . import display
from .facts import Fact

MAX_HELD = 50
MAX_TASKS = 500
NAME_CHARS = 80
VERSION_CHARS = 20
MAX_VERSIONS = 10
TONES = {WorkerState.ALIVE: "good", WorkerState.SILENT: "warning", WorkerState.STOPPED: "quiet"}
ORDER = list(WorkerState)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCard:
    name: SafeString | str
    depth: str
    readers: str
    oldest: str
    unread: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLine:
    worker: SeenWorker
    name: SafeString | str
    badge: SafeString
    heard: str
    queues: SafeString | str
    version: SafeString | str
    host: SafeString | str
    running: str
    reserved: str
    clock: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLine:
    """A task in a worker's hands. `run` is its link, "" for one that the reader may not see or that is not recorded."""

    task: Held
    run: SafeString | str
    since: SafeString | str


def list_context() -> dict[str, Any]:
    seen = workers.seen()
    looks = queues.recent(queues.known_names(seen))
    live = [worker for worker in seen if worker.alive]
    return {
        "workers": [_line(worker) for worker in sorted(seen, key=lambda worker: ORDER.index(worker.state))],
        "live": ngettext("%(count)s worker is alive", "%(count)s workers are alive", len(live))
        % {"count": number_format(len(live), force_grouping=True)},
        "nobody_lives": bool(seen) and not live,
        "more": len(seen) == workers.MAX_WORKERS,
        "versions": _versions(live),
        "queues": [_card(look, live) for look in looks],
        "broker_error": next((look.error for look in looks if look.code == queues.UNREACHABLE), ""),
        "broker_is_asked": not any(look.code == queues.UNASKED for look in looks),
    }


def context(request: HttpRequest, row: WorkerBeat, site: str) -> dict[str, Any]:
    worker = workers.of_row(row)
    running, reserved = worker.running[:MAX_HELD], worker.reserved[:MAX_HELD]
    runs = _runs(request, (*running, *reserved))
    tasks = [name for name in row.tasks if isinstance(name, str)] if isinstance(row.tasks, list) else []
    return {
        "line": _line(worker),
        "facts": [fact for fact in _facts(worker) if fact.value not in ("", None)],
        "running": [_held(task, runs, site) for task in running],
        "reserved": [_held(task, runs, site) for task in reserved],
        "more_held": worker.held > len(running) + len(reserved),
        "tasks": tasks[:MAX_TASKS],
        "number_of_tasks": len(tasks),
        "more_tasks": len(tasks) > MAX_TASKS,
    }


def span(length: timedelta) -> str:
    """In whole seconds up to a minute, then in Django's words."""
    if length < timedelta(minutes=1):
        return _("%(count)s s") % {"count": max(0, round(length.total_seconds()))}
    now = timezone.now()
    return timesince(now - length, now, depth=1)


def _line(worker: SeenWorker) -> WorkerLine:
    return WorkerLine(
        worker=worker,
        name=display.shortened(worker.name or "?", NAME_CHARS),
        badge=display.tone(TONES[worker.state], worker.state.label),
        heard="" if worker.age is None else _("%(time)s ago") % {"time": span(worker.age)},
        queues=display.shortened(", ".join(worker.queues), NAME_CHARS),
        version=display.shortened(worker.version, VERSION_CHARS),
        host=display.shortened(worker.host, NAME_CHARS),
        running=_slots(worker),
        reserved=number_format(_waiting(worker), force_grouping=True),
        clock=_clock(worker),
    )


def _slots(worker: SeenWorker) -> str:
    running = number_format(len(worker.running), force_grouping=True)
    if worker.concurrency is None:
        return running
    return _("%(size)s of %(limit)s") % {
        "size": running,
        "limit": number_format(worker.concurrency, force_grouping=True),
    }


def _waiting(worker: SeenWorker) -> int:
    """What it holds and does not run, though not all be listed."""
    return max(len(worker.reserved), worker.held - len(worker.running))


def _clock(worker: SeenWorker) -> str:
    if worker.clock_off is None:
        return ""
    time = span(abs(worker.clock_off))
    if worker.clock_off > timedelta(0):
        return _("clock %(time)s ahead") % {"time": time}
    return _("clock %(time)s behind") % {"time": time}


def _versions(live: Sequence[SeenWorker]) -> str:
    """The versions of live workers where there are several, the most frequent first; "" where they agree."""
    counts = Counter(worker.version for worker in live if worker.version)
    if len(counts) < 2:
        return ""
    return ", ".join(f"{version} ({count})" for version, count in counts.most_common(MAX_VERSIONS))


def _card(look: QueueLook, live: Sequence[SeenWorker]) -> QueueCard:
    readers = sum(look.name in worker.queues for worker in live)
    return QueueCard(
        name=display.shortened(look.name, NAME_CHARS),
        depth=_depth(look),
        readers=_readers(readers, look),
        oldest=_oldest(look),
        unread=bool(look.depth) and not readers and not look.consumers,
    )


def _depth(look: QueueLook) -> str:
    if look.code == queues.ABSENT:
        return _("not there")
    return "?" if look.depth is None else number_format(look.depth, force_grouping=True)


def _readers(readers: int, look: QueueLook) -> str:
    """Live workers by their beats, and RabbitMQ's own count where it is another."""
    if not readers and not look.consumers:
        return _("nobody reads it")
    told = ngettext("%(count)s worker", "%(count)s workers", readers) % {"count": readers}
    if look.consumers is None or look.consumers == readers:
        return told
    consumers = ngettext("%(count)s consumer", "%(count)s consumers", look.consumers) % {"count": look.consumers}
    return f"{told}, {consumers}" if readers else consumers


def _oldest(look: QueueLook) -> str:
    """For how long the oldest waits; "" where nothing does."""
    if look.oldest_at is None or look.depth == 0:
        return ""
    waited: timedelta = max(timezone.now() - look.oldest_at, timedelta(0))
    return _("oldest: %(time)s") % {"time": span(waited)}


def _facts(worker: SeenWorker) -> Iterator[Fact]:
    yield Fact(label=_("Host"), value=worker.host)
    yield Fact(label=_("Process"), value="" if worker.pid is None else str(worker.pid))
    yield Fact(label=_("Pool"), value=worker.pool)
    yield Fact(label=_("Concurrency"), value="" if worker.concurrency is None else str(worker.concurrency))
    yield Fact(label=_("Version"), value=worker.version)
    yield Fact(label=_("Queues"), value=", ".join(worker.queues))
    yield Fact(label=_("Started"), value=display.moment(worker.started_at))
    yield Fact(label=_("Stopped"), value=display.moment(worker.stopped_at))
    yield Fact(label=_("Boot"), value=format_html("<code>{}</code>", worker.boot_id))


def _runs(request: HttpRequest, held: Sequence[Held]) -> dict[str, TaskRun]:
    if not held or not request.user.has_perm("taskops.view_taskrun"):
        return {}
    found = TaskRun.objects.filter(task_id__in={task.task_id for task in held})
    return {run.task_id: run for run in found.only("pk", "task_id", "task_name", "started_at")}


def _held(task: Held, runs: dict[str, TaskRun], site: str) -> HeldLine:
    run = runs.get(task.task_id)
    name = task.task_name or "?"
    return HeldLine(
        task=task,
        run=display.link(run, name, site) if run else "",
        since=display.moment(_started(run)),
    )


def _started(run: TaskRun | None) -> datetime | None:
    return run.started_at if run else None
