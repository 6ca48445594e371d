"""Ends what nobody will end any more: runs whose worker is gone, whose end was never told, whose message is lost.

Judges by what the journal has delivered, never by the clock of a host. One round: it marks the end of what is in the
journal, waits until all before that has been applied, and judges the rows as they are then.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import current_app
from django.db.models import Count
from django.utils import timezone

from .. import journal
from ..capture.pulse import seconds_between_beats
from ..conf import conf
from ..events import EventKind
from ..journal.base import Source
from ..models import TaskAttempt, TaskRun, WorkerBeat
from ..states import DeadLetterReason, TaskState
from . import redelivery
from .judgement import Judgement, execute
from .restarts import Restarts
from .undelivered import Undelivered
from .watch import Watch

ABSENT_BEATS = 3
STOPPED_BEATS = 2
POISON_DEATHS = 3
POISON_WITHIN = timedelta(hours=72)
MAX_RUNS = 10_000  # looked at in one round
SECONDS_BETWEEN_SWEEPS = 600.0  # of what a worker long gone held: a spool may bring news of it late


logger = logging.getLogger("django_taskops")


@dataclass(frozen=True, slots=True)
class _Round:
    """What was known when the marks were set."""

    marks: Sequence[tuple[Source, object]]
    gone: frozenset[str]

    def has_passed(self) -> bool:
        return all(source.has_passed(mark) for source, mark in self.marks)


class Reaper:
    """`own` is the boot id of this process, which beats. To be called again and again, at least twice in the time
    between two beats; returns what it has done this time. `rounds` counts how often it has judged. Raises what the
    database and the journal raise: then nobody is judged."""

    def __init__(
        self,
        own: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        execute: Callable[[Sequence[Judgement]], Sequence[Judgement]] = execute,
    ) -> None:
        self.rounds = 0
        self._execute = execute
        self._clock = clock
        self._watch = Watch(own, conf.WORKER_TIMEOUT)
        self._round: _Round | None = None
        self._due = 0.0
        self._absent: dict[str, int] = {}  # by delivery: the first beat of its worker that did not name it
        self._swept: dict[str, float] = {}
        self._sources: Sequence[Source] | None = None
        self._restarts = Restarts()
        self._undelivered = Undelivered(clock)

    def __call__(self) -> Sequence[Judgement]:
        now = self._clock()
        self._watch.look(WorkerBeat.objects.only("boot_id", "number"), now)
        if not self._watch.trusted:
            self._round = None
            self._absent.clear()
        elif self._round is None:
            if now >= self._due:
                self._round = _Round(self._marks(), self._gone())
        elif self._round.has_passed():
            judged, self._round = self._round, None
            self._due = now + seconds_between_beats()
            done = self._execute(self._judge(judged.gone & self._gone()))
            self.rounds += 1
            return done
        return ()

    def _marks(self) -> Sequence[tuple[Source, object]]:
        if self._sources is None:
            self._sources = journal.sources()
        self._restarts.look(self._sources)
        return [(source, source.mark()) for source in self._sources]

    def _gone(self) -> frozenset[str]:
        """The boots that are no more, of those that have beaten or that have started what still stands as started."""
        told = dict(WorkerBeat.objects.values_list("boot_id", "stopped_at"))
        started = TaskRun.objects.filter(state=TaskState.STARTED).exclude(boot_id="")
        boots = told.keys() | set(started.order_by().values_list("boot_id", flat=True).distinct()[:MAX_RUNS])
        grace = STOPPED_BEATS * seconds_between_beats()  # what it has told last may come by another way
        stopped = {boot for boot, at in told.items() if at is not None and self._watch.silence(boot) >= grace}
        return frozenset(boot for boot in boots if boot in stopped or self._watch.is_silent(boot))

    def _judge(self, gone: Collection[str]) -> list[Judgement]:
        beats = {row.boot_id: row for row in WorkerBeat.objects.defer("tasks")}
        alive = {boot: row for boot, row in beats.items() if row.stopped_at is None and not self._watch.is_silent(boot)}
        late_hosts = {row.host for row in alive.values() if row.details.get("lag_seconds", 0) > _patience(row)}
        lost = {boot for boot in gone if boot not in beats or beats[boot].host not in late_hosts}
        started = list(
            TaskRun.objects.filter(state=TaskState.STARTED)
            .exclude(boot_id="")
            .order_by("boot_id", "started_at")[:MAX_RUNS]
        )
        judgements = self._of_lost([run for run in started if run.boot_id in lost], beats)
        judgements += self._of_ended([run for run in started if run.boot_id in alive], alive)
        judgements += self._of_held(lost, beats)
        judgements += self._of_attempts(lost, beats)
        return judgements + self._of_undelivered(list(alive.values()))

    def _of_undelivered(self, alive: Sequence[WorkerBeat]) -> list[Judgement]:
        try:
            return self._undelivered.judge(alive)
        except Exception as error:  # noqa: BLE001 a broker that is down keeps nobody from the others
            logger.info("django-taskops: the broker can't be asked what it has: %r", error)
            return []

    def _of_lost(self, runs: Sequence[TaskRun], beats: Mapping[str, WorkerBeat]) -> list[Judgement]:
        """Of what ran on workers that are gone."""
        deaths = _earlier_deaths(runs)
        return [self._lost(run, beats.get(run.boot_id), deaths.get(run.pk, 0) + 1) for run in runs]

    def _lost(self, run: TaskRun, beat: WorkerBeat | None, deaths: int) -> Judgement:
        said = self._said_of(beat, run)
        if deaths >= POISON_DEATHS:
            said = f"{said}; it has taken {deaths} workers down within {POISON_WITHIN.days * 24} hours"
            return Judgement(run=run, kind=EventKind.WORKER_LOST, reason=DeadLetterReason.POISON, description=said)
        if run.acks_late:
            return _abandoned(run, said)
        return Judgement(
            run=run,
            kind=EventKind.WORKER_LOST,
            reason=DeadLetterReason.WORKER_LOST,
            description=said,
            rerun=_may_run_again(run),
        )

    def _said_of(self, beat: WorkerBeat | None, about: TaskRun | TaskAttempt) -> str:
        if beat is None:
            return f"worker {about.worker}: nothing has been heard of it for {conf.WORKER_TIMEOUT} s"
        who = f"worker {beat.worker} (host {beat.host}, process {beat.pid})"
        if beat.stopped_at is not None:
            return f"{who} has shut down at {_moment(beat.stopped_at)}, and left it"
        silence = self._watch.silence(beat.boot_id)
        return f"{who}: its last beat was at {_moment(beat.beat_at)}, nothing has been heard of it for {silence:.0f} s"

    def _of_held(self, lost: Iterable[str], beats: Mapping[str, WorkerBeat]) -> list[Judgement]:
        """Of what waited in workers that are gone: nobody has acknowledged it. And of what the broker should have
        delivered again by now."""
        now = self._clock()
        boots = [
            boot for boot in lost if now - self._swept.get(boot, -SECONDS_BETWEEN_SWEEPS) >= SECONDS_BETWEEN_SWEEPS
        ]
        held = TaskRun.objects.filter(
            state__in=(TaskState.RECEIVED, TaskState.RETRY), verdict=EventKind.RECEIVED, boot_id__in=boots
        )
        found = [
            _abandoned(run, self._said_of(beats.get(run.boot_id), run)) for run in (held[:MAX_RUNS] if boots else ())
        ]
        self._swept |= dict.fromkeys(boots, now)
        return found

    def _of_attempts(self, lost: Collection[str], beats: Mapping[str, WorkerBeat]) -> list[Judgement]:
        """Of what ran on workers that are gone, and has been delivered again since."""
        started = TaskAttempt.objects.filter(state=TaskState.STARTED, boot_id__in=lost).select_related("run")
        return [
            Judgement(
                run=attempt.run,
                attempt=attempt,
                kind=EventKind.ABANDONED,
                reason=DeadLetterReason.WORKER_LOST,
                description=self._said_of(beats.get(attempt.boot_id), attempt),
            )
            for attempt in started.order_by("boot_id")[:MAX_RUNS]
        ]

    def _of_ended(self, runs: Sequence[TaskRun], alive: Mapping[str, WorkerBeat]) -> list[Judgement]:
        """Of what its worker, which lives, does not name any more in beats that were made after it had started."""
        absent = {}
        for run in runs:
            beat = alive[run.boot_id]
            if _is_absent(run, beat):
                absent[run.delivery] = self._absent.get(run.delivery, beat.number)
        self._absent = absent
        return [
            self._end_lost(run, alive[run.boot_id])
            for run in runs
            if run.delivery in absent and alive[run.boot_id].number - absent[run.delivery] >= ABSENT_BEATS
        ]

    def _end_lost(self, run: TaskRun, beat: WorkerBeat) -> Judgement:
        said = f"worker {beat.worker} (host {beat.host}, process {beat.pid}) lives and does not run it any more"
        if self._restarts.happened_since(run.started_at):
            said += "; Redis was restarted meanwhile, so that its end may have been lost with it"
        return Judgement(run=run, kind=EventKind.END_LOST, reason=DeadLetterReason.END_LOST, description=said)


def _patience(beat: WorkerBeat) -> float:
    """In seconds: a host whose spool is later than that says nothing certain about what ended there."""
    return ABSENT_BEATS * beat.seconds


def _is_absent(run: TaskRun, beat: WorkerBeat) -> bool:
    details: dict[str, Any] = beat.details
    listed = [*details["running"], *details["reserved"]]
    whole = len(listed) == details["held"] and details["lag_seconds"] <= _patience(beat)
    started_before = run.started_at is not None and run.started_at < beat.beat_at  # one host, one clock
    named = any(run.delivery == delivery or run.task_id == task_id for delivery, task_id, _name in listed)
    return whole and started_before and not named


def _abandoned(run: TaskRun, said: str) -> Judgement:
    due = datetime.now(UTC) + redelivery.longest_wait(current_app)
    return Judgement(
        run=run,
        kind=EventKind.ABANDONED,
        reason=DeadLetterReason.WORKER_LOST,
        description=said,
        retry_at=due,
    )


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
