"""Ends what nobody will end any more: runs whose worker is gone, whose end was never told, whose message is lost.

Judges by what the journal has delivered, never by the clock of a host. One round: it marks the end of what is in the
journal, waits until all before that has been applied, and judges the rows as they are then.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ... import journal
from ...capture.pulse import seconds_between_beats
from ...conf import conf
from ...journal.base import Source
from ...models import TaskRun, WorkerBeat
from ...states import TaskState
from . import roll_call
from .ended import Ended, is_late
from .judgement import Judgement, execute
from .lost import Lost
from .restarts import Restarts
from .undelivered import Undelivered
from .watch import Watch

STOPPED_BEATS = 2
TIMEOUTS_OF_A_LATE_HOST = 10
MAX_BOOTS = 10_000
SECONDS_BETWEEN_LOGS = 60.0

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
        self._patience = TIMEOUTS_OF_A_LATE_HOST * conf.WORKER_TIMEOUT
        self._round: _Round | None = None
        self._due = self._name_at = 0.0
        self._logged = -SECONDS_BETWEEN_LOGS
        self._sources: Sequence[Source] | None = None
        self._restarts = Restarts()
        self._lost = Lost(self._watch, clock)
        self._ended = Ended(self._restarts)
        self._undelivered = Undelivered(clock)

    def __call__(self) -> Sequence[Judgement]:
        now = self._clock()
        self._watch.look(WorkerBeat.objects.only("boot_id", "number"), now)
        if now >= self._name_at:
            self._watch.name(_started_boots())
            self._name_at = now + seconds_between_beats()
        if not self._watch.trusted:
            self._round = None
            self._ended.forget()
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
        grace = STOPPED_BEATS * seconds_between_beats()  # what it has told last may come by another way
        stopped = {boot for boot, at in told.items() if at is not None and self._watch.silence(boot) >= grace}
        return frozenset(stopped | self._watch.silent())

    def _judge(self, gone: frozenset[str]) -> list[Judgement]:
        beats = {row.boot_id: row for row in WorkerBeat.objects.defer("tasks")}
        alive = {boot: row for boot, row in beats.items() if row.stopped_at is None and not self._watch.is_silent(boot)}
        late_hosts = self._late_hosts(beats, alive)
        lost = {boot for boot in gone if boot not in beats or beats[boot].host not in late_hosts}
        judgements = self._of_the_silent(self._lost.judge(lost, beats), beats)
        return [*judgements, *self._ended.judge(alive), *self._of_undelivered(list(alive.values()))]

    def _late_hosts(self, beats: Mapping[str, WorkerBeat], alive: Mapping[str, WorkerBeat]) -> set[str]:
        """Those on whose spool nothing certain is known, as who lives there says; where nobody does, the last words of
        the silent count for a while. What a dead worker said of the spool would hold for ever, and so would its runs.
        """
        speaking = {row.host for row in alive.values()}
        last_words = [
            row
            for boot, row in beats.items()
            if row.stopped_at is None and row.host not in speaking and self._watch.silence(boot) < self._patience
        ]
        return {row.host for row in (*alive.values(), *last_words) if is_late(row)}

    def _of_the_silent(self, judgements: Sequence[Judgement], beats: Mapping[str, WorkerBeat]) -> list[Judgement]:
        """Without those on workers that answer: their beats are stuck somewhere, and so may be the ends they tell."""
        told = {boot for boot, row in beats.items() if row.stopped_at is not None}
        if all(each.about.boot_id in told for each in judgements):
            return list(judgements)
        try:
            living = roll_call.answering() - told
        except Exception as error:  # noqa: BLE001 a broker that is down says nothing of anybody
            self._log(f"the workers can't be asked: {error!r}")
            living = frozenset()
        found = [each for each in judgements if each.about.boot_id not in living]
        if len(found) < len(judgements):
            self._log("workers live whose beats don't come through: is the drain of their host at work?")
        return found

    def _of_undelivered(self, alive: Sequence[WorkerBeat]) -> list[Judgement]:
        try:
            return self._undelivered.judge(alive)
        except Exception as error:  # noqa: BLE001 a broker that is down keeps nobody from the others
            self._log(f"the broker can't be asked what it has: {error!r}")
            return []

    def _log(self, problem: str) -> None:
        if self._clock() - self._logged >= SECONDS_BETWEEN_LOGS:
            self._logged = self._clock()
            logger.warning("django-taskops: %s", problem)


def _started_boots() -> set[str]:
    started = TaskRun.objects.filter(state=TaskState.STARTED).exclude(boot_id="")
    return set(started.order_by().values_list("boot_id", flat=True).distinct()[:MAX_BOOTS])
