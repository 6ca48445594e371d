"""Drain time, CPU, `.delay()` and lag: no-op tasks through a real worker, each variant in turn, round after round."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from .brokers import Broker
from .databases import Database
from .errors import NotMeasured
from .lag import Lag, probe_of, watching
from .project import Project, Published
from .worker import Worker, cpu_of, running_worker

START_POLL_SECONDS = 0.002
POLL_SECONDS = 0.02
COUNT_SECONDS = 0.05
REST_SECONDS = 1.0
PATIENCE_SECONDS = 60
PATIENCE_SECONDS_PER_TASK = 0.03

_PUBLISHED = "SELECT count(*) FROM taskops_taskrun WHERE enqueued_at IS NOT NULL"
_TASKOPS_COMPLETE = (
    f"{_PUBLISHED} AND started_at IS NOT NULL AND finished_at IS NOT NULL"
    " AND state = 'SUCCESS' AND queue <> '' AND worker <> ''"
)
_RESULTS_COMPLETE = "SELECT count(*) FROM django_celery_results_taskresult WHERE status = 'SUCCESS'"
COMPLETE = {"taskops": _TASKOPS_COMPLETE, "results": _RESULTS_COMPLETE, "results-extended": _RESULTS_COMPLETE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the variants of one table have in common."""

    broker: str
    database: str
    payload: str
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Seconds. `tail` is the part of `wall` after the last task; `lag` is None where nothing is recorded; `foreign_cpu`
    is what the machine spent meanwhile on processes that are not ours."""

    wall: float
    tail: float
    lag: float | None
    cpu: float
    database_cpu: float
    broker_cpu: float
    foreign_cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One variant, once. While its tasks are published, the worker records them and does not yet run them: that takes
    it `recording_cpu` seconds of CPU, and until `recorded` seconds after the last publish."""

    published: Published
    recorded: float
    recording_cpu: float
    lag: float | None
    drain: Drain


@dataclass(slots=True, kw_only=True)
class Result:
    """`rounds` holds a run per variant each; `failed` says what ended a variant without a figure."""

    case: Case
    rounds: list[dict[str, Run]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def runs(self, variant: str) -> list[Run]:
        return [runs[variant] for runs in self.rounds if variant in runs]

    def ratios(self, variant: str, value: Callable[[Run], float]) -> list[float]:
        """To the bare run of the same round."""
        both = [runs for runs in self.rounds if variant in runs and "bare" in runs]
        return [value(runs[variant]) / value(runs["bare"]) for runs in both]


def measure(
    case: Case, variants: Sequence[str], rounds: int, broker: Broker, database: Database, folder: Path
) -> Result:
    result = Result(case=case)
    for number in range(1, rounds + 1):
        result.rounds.append({})
        for variant in variants:
            if variant in result.failed:
                continue
            project = Project(variant=variant, broker=broker, database=database, folder=folder)
            where = f"{case.broker} {case.database} {case.payload} round {number} {variant}"
            try:
                run = run_once(project, case.tasks, case.payload)
            except NotMeasured as error:
                result.failed[variant] = str(error)
                print(f"{where}: {error}\n{error.detail}", file=sys.stderr)
            else:
                result.rounds[-1][variant] = run
                print(f"{where}: {_in_short(run)}", file=sys.stderr)
    return result


def _in_short(run: Run) -> str:
    drain, delay = run.drain, run.published.median
    return f"{drain.wall:.2f} s, CPU {drain.cpu:.2f} s, .delay() {delay * 1e6:.0f} us, tail {drain.tail:.2f} s"


def run_once(project: Project, tasks: int, payload: str) -> Run:
    """Raises NotMeasured where a task or a row is missing at the end."""
    project.start_fresh()
    with running_worker(project) as worker:
        before = worker.cpu()
        with _watching(project, "max(enqueued_at)") as lag:
            published = project.publish(tasks, payload)
        ended = time.perf_counter()
        if project.variant == "taskops":
            wait_for_rows(project, worker, _PUBLISHED, tasks)
        recorded = time.perf_counter() - ended
        recording_cpu = worker.cpu() - before
        _wait(worker, lambda: project.broker.queued() == tasks, POLL_SECONDS, 0, f"{tasks} queued messages")
        time.sleep(REST_SECONDS)
        drain = _drain(project, worker, tasks)
    return Run(published=published, recorded=recorded, recording_cpu=recording_cpu, lag=lag.highest, drain=drain)


def _drain(project: Project, worker: Worker, tasks: int) -> Drain:
    """The clock runs from the first message that leaves the queue until the last task has run and the last row is
    complete."""
    trees = (worker.process, project.database.process, project.broker.process)
    before, foreign = [cpu_of(tree) for tree in trees], _foreign_cpu()
    worker.consume()
    _wait(worker, lambda: project.broker.queued() < tasks, START_POLL_SECONDS, tasks, "the worker to begin")
    started = time.perf_counter()
    with _watching(project, "max(finished_at)") as lag:
        wait_for_broker(project, worker, tasks)
    empty = time.perf_counter()
    if complete := COMPLETE.get(project.variant):
        wait_for_rows(project, worker, complete, tasks)
    ended = time.perf_counter()
    cpu, database_cpu, broker_cpu = (cpu_of(tree) - used for tree, used in zip(trees, before, strict=True))
    return Drain(
        wall=ended - started,
        tail=ended - empty,
        lag=lag.highest,
        cpu=cpu,
        database_cpu=database_cpu,
        broker_cpu=broker_cpu,
        foreign_cpu=_foreign_cpu() - foreign,
    )


def _foreign_cpu() -> float:
    """Every server and worker of a measurement descends from this process."""
    times = psutil.cpu_times()
    return float(times.user + times.system) - cpu_of(psutil.Process())


@contextmanager
def _watching(project: Project, newest: str) -> Iterator[Lag]:
    if project.variant != "taskops":
        yield Lag()
        return
    with watching(probe_of(project.broker, project.database, newest)) as lag:
        yield lag


def wait_for_broker(project: Project, worker: Worker, tasks: int) -> None:
    """Until the queue is empty, and the worker says that it has run them all."""
    _wait(worker, project.broker.is_empty, POLL_SECONDS, tasks, "the queue to be empty")
    _wait(worker, lambda: worker.executed() == tasks, POLL_SECONDS, tasks, f"{tasks} executed tasks")


def wait_for_rows(project: Project, worker: Worker, query: str, rows: int) -> None:
    _wait(worker, lambda: project.database.number(query) == rows, COUNT_SECONDS, rows, f"{rows} rows: {query}")


def _wait(worker: Worker, reached: Callable[[], bool], pause: float, tasks: int, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS + PATIENCE_SECONDS_PER_TASK * tasks
    while not reached():
        worker.check()
        if time.monotonic() > deadline:
            raise NotMeasured(f"expected {what}, gave up waiting", worker.log_end())
        time.sleep(pause)
