"""What workers that are gone have left: what they ran, what they held, and what was delivered again since."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import current_app
from django.db.models import Count
from django.utils import timezone

from ...events import EventKind
from ...models import TaskAttempt, TaskRun, WorkerBeat
from ...states import DeadLetterReason, TaskState
from . import redelivery
from .judgement import Judgement
from .watch import Watch

POISON_DEATHS = 3
POISON_WITHIN = timedelta(hours=72)
MAX_RUNS = 10_000  # looked at in one round
SECONDS_BETWEEN_SWEEPS = 600.0  # of what a worker long gone held: a spool may bring news of it late

logger = logging.getLogger("django_taskops")


class Lost:
    """`clock` gives seconds that never go back."""

    def __init__(self, watch: Watch, clock: Callable[[], float]) -> None:
        self._watch = watch
        self._clock = clock
        self._swept: dict[str, float] = {}

    def judge(self, boots: Collection[str], beats: Mapping[str, WorkerBeat]) -> list[Judgement]:
        """`boots` are gone; `beats` are the rows that there are, by boot."""
        started = TaskRun.objects.filter(state=TaskState.STARTED, boot_id__in=boots).order_by("boot_id", "started_at")
        runs = list(started[:MAX_RUNS])
        deaths = _earlier_deaths(runs)
        found = list(_each(runs, lambda run: self._of_run(run, beats.get(run.boot_id), deaths.get(run.pk, 0) + 1)))
        found += _each(self._held(boots), lambda run: _abandoned(run, *self._evidence(beats.get(run.boot_id), run)))
        attempts = TaskAttempt.objects.filter(state=TaskState.STARTED, boot_id__in=boots).select_related("run")
        found += (self._of_attempt(attempt, beats.get(attempt.boot_id)) for attempt in attempts[:MAX_RUNS])
        return found

    def _of_run(self, run: TaskRun, beat: WorkerBeat | None, deaths: int) -> Judgement:
        reason, said = self._evidence(beat, run)
        if reason == DeadLetterReason.WORKER_LOST and deaths >= POISON_DEATHS:
            said = f"{said}; it has taken {deaths} workers down within {POISON_WITHIN.days * 24} hours"
            return Judgement(run=run, kind=EventKind.WORKER_LOST, reason=DeadLetterReason.POISON, description=said)
        if run.acks_late:
            return _abandoned(run, reason, said)
        # Of the lowest rank, whatever the reason: who has seen the end may tell of it late, and is right.
        rerun = _may_run_again(run)
        return Judgement(run=run, kind=EventKind.WORKER_LOST, reason=reason, description=said, rerun=rerun)

    def _of_attempt(self, attempt: TaskAttempt, beat: WorkerBeat | None) -> Judgement:
        reason, said = self._evidence(beat, attempt)
        return Judgement(run=attempt.run, attempt=attempt, kind=EventKind.ABANDONED, reason=reason, description=said)

    def _held(self, boots: Collection[str]) -> Sequence[TaskRun]:
        """What waited in them: nobody has acknowledged it."""
        now = self._clock()
        due = [boot for boot in boots if now - self._swept.get(boot, -SECONDS_BETWEEN_SWEEPS) >= SECONDS_BETWEEN_SWEEPS]
        self._swept = {boot: at for boot, at in self._swept.items() if boot in boots} | dict.fromkeys(due, now)
        waiting = (TaskState.RECEIVED, TaskState.RETRY)
        held = TaskRun.objects.filter(state__in=waiting, verdict=EventKind.RECEIVED, boot_id__in=due)
        return list(held[:MAX_RUNS]) if due else []

    def _evidence(self, beat: WorkerBeat | None, about: TaskRun | TaskAttempt) -> tuple[str, str]:
        """The reason, and a sentence. A worker that said goodbye was not taken down."""
        if beat is None:
            silence = self._watch.silence(about.boot_id)
            said = f"worker {about.worker}: nothing has been heard of it for {silence:.0f} s"
            return DeadLetterReason.WORKER_LOST, said
        who = f"worker {beat.worker} (host {beat.host}, process {beat.pid})"
        if beat.stopped_at is not None:
            return DeadLetterReason.CANCELLED, f"{who} has shut down at {_moment(beat.stopped_at)}, and left it"
        silence = self._watch.silence(beat.boot_id)
        said = f"{who}: its last beat was at {_moment(beat.beat_at)}, nothing has been heard of it for {silence:.0f} s"
        return DeadLetterReason.WORKER_LOST, said


def _each(runs: Iterable[TaskRun], judge: Callable[[TaskRun], Judgement]) -> Iterator[Judgement]:
    """One odd run, or the odd options of its task, keep nobody from the others."""
    for run in runs:
        try:
            yield judge(run)
        except Exception:
            logger.exception("django-taskops: %s of a worker that is gone can't be judged", run.task_id)


def _abandoned(run: TaskRun, reason: str, said: str) -> Judgement:
    due = datetime.now(UTC) + redelivery.longest_wait(current_app)
    return Judgement(run=run, kind=EventKind.ABANDONED, reason=reason, description=said, retry_at=due)


def _earlier_deaths(runs: Sequence[TaskRun]) -> dict[int, int]:
    """How often each of the runs has taken a worker down lately, by primary key, this time not included."""
    if not runs:
        return {}
    since = timezone.now() - POISON_WITHIN
    reasons = (DeadLetterReason.WORKER_LOST, DeadLetterReason.POISON)
    deaths = TaskAttempt.objects.filter(run__in=[run.pk for run in runs], reason__in=reasons, finished_at__gte=since)
    started = deaths.exclude(started_at=None).order_by()
    return dict(started.values_list("run").annotate(count=Count("pk")))


def _may_run_again(run: TaskRun) -> bool:
    """True for a task that is declared idempotent, as long as its own policy would have granted it another start."""
    task: Any = current_app.tasks.get(run.task_name)
    options = getattr(task, "taskops", None)
    if options is None or not options.idempotent:
        return False
    return task.max_retries is None or run.starts() <= task.max_retries


def _moment(instant: datetime) -> str:
    aware = timezone.make_aware(instant) if timezone.is_naive(instant) else instant
    return f"{aware.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
