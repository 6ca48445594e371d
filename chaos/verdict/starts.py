"""Starts of one (id, publication, generation, retries) that were not redeliveries: at most one."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from chaos.ledger import Line
from chaos.tables import Tables
from chaos.verdict.finding import Finding
from chaos.verdict.record import Attempt, Record, attempt_of

IDEMPOTENT = ("chaos.tasks.slow_idempotent",)


def nothing_starts_twice(record: Record, tables: Tables) -> list[Finding]:
    """But for what Celery itself has sent twice: where its client did not learn whether the broker had the message, and
    where a delivery that the broker repeated has retried once more."""
    attempts = record.attempts()
    lost = Counter(attempt_of(line) for line in record.lost_puts)
    found = []
    for attempt, starts in sorted(attempts.items()):
        first = [start for start in starts if not start.redelivered]
        twice = [tag for tag, count in Counter(start.tag for start in first).items() if count > 1]
        if twice or len(first) > _sent(attempt, attempts, lost):
            tags = ", ".join(f"{start.tag} in {start.pid}" for start in first)
            found.append(Finding(attempt[0], f"generation {attempt[2]}, retries {attempt[3]} was started by {tags}"))
    return found


def _sent(attempt: Attempt, attempts: dict[Attempt, list[Line]], lost: Counter[Attempt]) -> int:
    """How many messages of it there may be."""
    *epoch, retries = attempt
    if retries == 0 and attempt[2] > 0:
        return 1  # the app's own
    before: Sequence[Line] = attempts.get((*epoch, retries - 1), ())  # type: ignore[arg-type]
    return max(1, len(before)) + lost[attempt]


def nothing_is_run_again_unasked(record: Record, tables: Tables) -> list[Finding]:
    """A later generation has its decision; that of the app itself only for what is declared idempotent."""
    decisions = defaultdict(list)
    uncertain = set()
    for entry in tables.audit:
        if entry.action == "requeue" and entry.outcome.startswith("sent"):
            decisions[entry.task_id, entry.details.get("generation")].append(entry.by)
        elif entry.action == "requeue":
            uncertain.add(entry.task_id)
    found = []
    for start in record.starts.values():
        if start.generation == 0:
            continue
        by = decisions.get((start.task_id, start.generation), [])
        if not by and start.task_id in uncertain:
            continue  # decided, and nobody knew whether it had been sent
        if len(by) != 1:
            found.append(Finding(start.task_id, f"generation {start.generation} runs by {len(by)} decisions: {by}"))
        elif not by[0] and start.task not in IDEMPOTENT:
            found.append(Finding(start.task_id, f"{start.task} runs again, and nobody has asked for it"))
    return found
