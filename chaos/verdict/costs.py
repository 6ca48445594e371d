"""Time spent in the app's code inside tasks, and failures that are the app's own."""

from dataclasses import dataclass

from chaos.ledger import Line
from chaos.tables import Tables
from chaos.verdict.finding import Finding
from chaos.verdict.record import Record

P99_MS = 5.0
LONGEST_MS = 250.0
OURS = "django_taskops."


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Milliseconds in the app's code in one execution of a task, without the time in which the thread was ready and
    another had the processor; `wall_` with it, `cpu_` at work alone. Without those that a SIGSTOP has hit, which
    `stopped` counts."""

    executions: int = 0
    stopped: int = 0
    median: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    wall_p99: float = 0.0
    wall_longest: float = 0.0
    cpu_p99: float = 0.0
    cpu_longest: float = 0.0


def cost(record: Record) -> Cost:
    clean = [line for line in record.ours if not _was_stopped(record, line)]
    net, wall, cpu = (sorted(line.detail[name] / 1e6 for line in clean) for name in ("net", "wall", "cpu"))
    if not net:
        return Cost(stopped=len(record.ours))
    return Cost(
        executions=len(record.ours),
        stopped=len(record.ours) - len(clean),
        median=_quantile(net, 0.5),
        p99=_quantile(net, 0.99),
        longest=net[-1],
        wall_p99=_quantile(wall, 0.99),
        wall_longest=wall[-1],
        cpu_p99=_quantile(cpu, 0.99),
        cpu_longest=cpu[-1],
    )


def _was_stopped(record: Record, line: Line) -> bool:
    """Somewhere between its first hook and its last: the process was frozen, not slow."""
    began = line.detail["began"] or line.at
    return any(begin <= line.at and end >= began for begin, end in record.stops.get(line.pid, ()))


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def the_hooks_are_quick(record: Record, tables: Tables) -> list[Finding]:
    found = []
    measured = cost(record)
    if measured.p99 > P99_MS:
        found.append(Finding("hooks", f"p99 {measured.p99:.1f} ms, expected at most {P99_MS} ms"))
    found += [
        Finding(line.task_id, f"{line.detail['net'] / 1e6:.0f} ms in the app's code: {line.detail['slow']}")
        for line in record.ours
        if line.detail["net"] > LONGEST_MS * 1e6 and not _was_stopped(record, line)
    ]
    return found


def no_task_fails_because_of_the_app(record: Record, tables: Tables) -> list[Finding]:
    found = [Finding("a worker's log", text) for text in record.failed_hooks]
    return found + [
        Finding(task_id, f"{told.exception_type}: {told.exception_message}")
        for task_id, run in sorted(tables.runs.items())
        for told in run.deliveries()
        if told.exception_type.startswith(OURS) or told.verdict == "broke"
    ]
