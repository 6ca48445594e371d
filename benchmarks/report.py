"""The figures as Markdown: what was aimed at, what came out, and on which machine."""

import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil

from .drain import Drained
from .hang import Hang
from .memory import Memory
from .prune import KINDS, Pruning
from .requeue import Requeued
from .speed import Result, Run

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
MIB = 1024 * 1024
QUIET_CORES = 0.1  # of foreign processes, on average over a drain
PACKAGES = ("celery", "kombu", "Django", "django-celery-results", "psycopg", "redis")


@dataclass(slots=True, kw_only=True)
class Figures:
    """What one call of the benchmark has measured; `missing` says why something has no figure."""

    versions: dict[str, str] = field(default_factory=dict)
    speed: list[Result] = field(default_factory=list)
    hang: Hang | None = None
    memory: list[Memory] = field(default_factory=list)
    drained: list[Drained] = field(default_factory=list)
    pruned: list[Pruning] = field(default_factory=list)
    requeued: list[Requeued] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def markdown(figures: Figures) -> str:
    parts = [_machine(figures.versions), _goals(figures), *(_speed(result) for result in figures.speed)]
    parts += [_hang(figures.hang)] if figures.hang else []
    parts += [_memory(figures.memory)] if figures.memory else []
    parts += [_drain(figures.drained)] if figures.drained else []
    parts += [_prune(figures.pruned)] if figures.pruned else []
    parts += [_requeue(figures.requeued)] if figures.requeued else []
    parts += ["### Not measured\n\n" + "\n".join(f"- {what}" for what in figures.missing)] if figures.missing else []
    return "\n\n".join(parts)


def write(text: str) -> None:
    """Between the two marks of README.md."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _machine(versions: dict[str, str]) -> str:
    memory = psutil.virtual_memory().total / 1024**3
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    services = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GiB, {platform.system()} {platform.release()}; "
        f"Python {platform.python_version()}, {packages}; {services}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- goals


@dataclass(frozen=True, slots=True)
class Goal:
    what: str
    where: str
    limit: float
    got: float
    unit: str = "x"
    aim: float | None = None
    at_least: bool = False

    def row(self) -> list[str]:
        bound = f"{'at least' if self.at_least else 'at most'} {self._shown(self.limit)}"
        bound += f", aim {self._shown(self.aim)}" if self.aim is not None else ""
        return [self.what, self.where, bound, self._shown(self.got), self._verdict()]

    def _shown(self, value: float) -> str:
        text = f"{value:,.0f}" if self.at_least else f"{value:.2f}"
        return text + self.unit

    def _verdict(self) -> str:
        if math.isnan(self.got):
            return "not measured"
        if self.got >= self.limit if self.at_least else self.got <= self.limit:
            return "yes" if self.aim is None or self.got <= self.aim else "yes, the aim not"
        return f"no, by {abs(self.got / self.limit - 1):.0%}"


def _goals(figures: Figures) -> str:
    rows = [goal.row() for goal in _all_goals(figures)]
    return "### Goals\n\n" + _table(("goal", "where", "limit", "measured", "reached"), rows)


def _all_goals(figures: Figures) -> Iterator[Goal]:
    for result in figures.speed:
        yield from _speed_goals(result)
    if figures.hang:
        yield Goal("slowest `.delay()`, Redis hangs", "100B", 50, figures.hang.longest_after * 1000, " ms")
    for memory in figures.memory:
        if memory.variant == "taskops":
            yield Goal("growth of a process", f"{memory.tasks:,} tasks", 2, max(memory.growth) / MIB, " MiB")
    for drained in figures.drained:
        where = f"{drained.payload}, {drained.order}"
        yield Goal("drain alone", where, 20_000, drained.events_per_second, " events/s", at_least=True)
    for pruned in figures.pruned:
        where = f"{pruned.database}, {pruned.kind}"
        if where == "postgresql, success":
            yield Goal("pruning", where, 20_000, pruned.rows_per_second, " rows/s", at_least=True)
        yield Goal("longest transaction of pruning", where, 200, pruned.longest * 1000, " ms")


def _speed_goals(result: Result) -> Iterator[Goal]:
    case = result.case
    where = f"{case.broker}, {case.database}, {case.payload}"
    if not (walls := result.ratios("taskops", _wall)):
        return
    yield Goal("drain time", where, 1.15, statistics.median(walls), aim=1.10)
    if case.broker == "redis":
        yield Goal("CPU of the worker", where, 1.35, statistics.median(result.ratios("taskops", _cpu)), aim=1.20)
        yield Goal("`.delay()`", where, 1.30, statistics.median(result.ratios("taskops", _delay)))
    lags = [lag for run in result.runs("taskops") for lag in (run.lag, run.drain.lag) if lag is not None]
    yield Goal("highest lag", where, 1.0, max(lags, default=math.nan), " s")


def _wall(run: Run) -> float:
    return run.drain.wall


def _cpu(run: Run) -> float:
    return run.drain.cpu


def _delay(run: Run) -> float:
    return run.published.median


_OTHER_CPU: Sequence[Callable[[Run], float]] = (
    lambda run: run.drain.database_cpu,
    lambda run: run.drain.broker_cpu,
    lambda run: run.drain.foreign_cpu,
)


def _mean_delay(run: Run) -> float:
    return run.published.mean


# --- tables

_HEAD = (
    "variant",
    "drain s",
    "x bare",
    "worker CPU s",
    "x bare",
    "`.delay()` us",
    "x bare",
    "mean us",
    "x bare",
    "p99 us",
    "tail s",
    "lag s: publishing, draining",
    "recorded after s",
    "worker CPU s before",
    "CPU s: database, broker, foreign",
)


def _speed(result: Result) -> str:
    case = result.case
    title = f"### {case.broker}, {case.database}, {case.payload}: {case.tasks:,} tasks, rounds: {len(result.rounds)}"
    variants = dict.fromkeys(variant for runs in result.rounds for variant in runs)
    return f"{title}\n\n{_disturbed(result)}" + _table(_HEAD, (_row(result, variant) for variant in variants))


def _disturbed(result: Result) -> str:
    drains = [run.drain for runs in result.rounds for run in runs.values()]
    share = max((drain.foreign_cpu / drain.wall for drain in drains), default=0.0)
    if share < QUIET_CORES:
        return ""
    return f"**Not a quiet machine**: foreign processes used up to {share:.1f} cores during a drain.\n\n"


def _row(result: Result, variant: str) -> list[str]:
    runs = result.runs(variant)

    def median(value: Callable[[Run], float]) -> float:
        return statistics.median(map(value, runs))

    return [
        variant,
        f"{median(_wall):.2f}",
        _ratio(result, variant, _wall),
        f"{median(_cpu):.2f}",
        _ratio(result, variant, _cpu),
        f"{median(_delay) * 1e6:.0f}",
        _ratio(result, variant, _delay),
        f"{median(_mean_delay) * 1e6:.0f}",
        _ratio(result, variant, _mean_delay),
        f"{median(lambda run: run.published.p99) * 1e6:.0f}",
        f"{median(lambda run: run.drain.tail):.2f}",
        f"{_highest(run.lag for run in runs)}, {_highest(run.drain.lag for run in runs)}",
        f"{median(lambda run: run.recorded):.2f}",
        f"{median(lambda run: run.recording_cpu):.2f}",
        ", ".join(f"{median(used):.2f}" for used in _OTHER_CPU),
    ]


def _ratio(result: Result, variant: str, value: Callable[[Run], float]) -> str:
    if variant == "bare" or not (ratios := result.ratios(variant, value)):
        return "-"
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}..{max(ratios):.2f})"


def _highest(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.2f}" if known else "-"


def _hang(hang: Hang) -> str:
    head = ("median before", "median after", "p99 after", "longest after")
    values = (hang.median_before, hang.median_after, hang.p99_after, hang.longest_after)
    row = [f"{value * 1000:.2f} ms" for value in values]
    return "### `.delay()` before and after the journal's Redis hangs\n\n" + _table(head, [row])


def _memory(memories: Sequence[Memory]) -> str:
    rows = [
        [memory.variant, f"{memory.tasks:,}", _mib(memory.first), _mib(memory.last), _mib(memory.growth)]
        for memory in memories
    ]
    head = ("variant", "tasks", "USS after 1,000: main, children (MiB)", "after all", "growth")
    return "### Memory\n\n" + _table(head, rows)


def _mib(sizes: Iterable[int]) -> str:
    return ", ".join(f"{size / MIB:.2f}" for size in sizes)


def _drain(drained: Sequence[Drained]) -> str:
    rows = [
        [
            one.payload,
            one.order,
            f"{one.events:,}",
            f"{one.seconds:.2f}",
            f"{one.cpu:.2f}",
            f"{one.events_per_second:,.0f}",
        ]
        for one in drained
    ]
    head = ("payload", "order", "events", "s", "CPU s of its process", "events/s")
    return "### The drain alone, on one core\n\n" + _table(head, rows)


def _prune(pruned: Sequence[Pruning]) -> str:
    rows = [
        [each.database, KINDS[each.kind], f"{each.rows:,}", f"{each.seconds:.1f}", f"{each.rows_per_second:,.0f}"]
        for each in pruned
    ]
    return "### Pruning alone\n\n" + _table(("database", "what is due", "runs", "s", "runs/s"), rows)


def _requeue(requeued: Sequence[Requeued]) -> str:
    rows = [
        [
            each.database,
            each.way,
            f"{each.letters:,}",
            f"{each.seconds:.1f}",
            f"{each.letters_per_second:,.0f}",
            f"{each.growth / MIB:.1f}",
        ]
        for each in requeued
    ]
    head = ("database", "way", "letters", "s", "letters/s", "memory grown by (MiB)")
    return "### Requeueing from the command line, `once`\n\n" + _table(head, rows)
