"""Starts of one (id, publication, generation, retries) that were not redeliveries: at most one."""

from collections import Counter, defaultdict

from chaos.ledger import Line
from chaos.tables import Tables
from chaos.verdict.finding import Finding
from chaos.verdict.record import Attempt, Record, attempt_of

REQUEUE, SENT = "requeue", "sent"
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
    before = attempts.get((*epoch, retries - 1), [])  # type: ignore[arg-type]
    return max(1, len(before)) + lost[attempt]


def nothing_is_run_again_unasked(record: Record, tables: Tables) -> list[Finding]:
    """A later generation has its decision; that of the app itself only for what is declared idempotent."""
    decided = _decided(tables)
    doubtful = [entry for entry in tables.audit if entry.action == REQUEUE and not entry.outcome.startswith(SENT)]
    uncertain = {entry.task_id for entry in doubtful}
    found = []
    for start in record.starts.values():
        by = decided[start.task_id, start.generation]
        if start.generation == 0 or (not by and start.task_id in uncertain):
            continue  # of the second, nobody knew whether it had been sent
        if len(by) != 1:
            found.append(Finding(start.task_id, f"generation {start.generation} runs by {len(by)} decisions: {by}"))
        elif not by[0] and start.task not in IDEMPOTENT:
            found.append(Finding(start.task_id, f"{start.task} runs again, and nobody has asked for it"))
    return found


def _decided(tables: Tables) -> defaultdict[tuple[str, int | None], list[str]]:
    """By whom, for each task id and generation."""
    decided = defaultdict(list)
    for entry in tables.audit:
        if entry.action == REQUEUE and entry.outcome.startswith(SENT):
            decided[entry.task_id, entry.details.get("generation")].append(entry.by)
    return decided
