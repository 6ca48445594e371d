"""No success, failure, retry or attempt is missing or doubled, and counters equal the rows."""

from collections import defaultdict

from chaos.ledger import Line, What
from chaos.tables import Delivery, Run, Tables
from chaos.verdict.finding import Finding
from chaos.verdict.losses import LOST
from chaos.verdict.record import CERTAIN_NS, Record, attempt_of

AROUND_A_KILL_NS = 5 * CERTAIN_NS // 2


def every_start_is_told_once(record: Record, tables: Tables) -> list[Finding]:
    found = []
    for delivery, start in record.starts.items():
        run = tables.runs.get(start.task_id)
        told = [each for each in run.deliveries() if each.delivery == delivery] if run else []
        if not told and record.certain(start):
            found.append(Finding(start.task_id, f"{_attempt(start)} is missing"))
        elif len(told) > 1:
            found.append(Finding(start.task_id, f"{_attempt(start)} is told {len(told)} times"))
        elif told and (told[0].publication, told[0].generation, told[0].retries) != _place(start):
            found.append(Finding(start.task_id, f"{_attempt(start)} is told as {_place_told(told[0])}"))
    return found


def every_end_is_told_as_it_was(record: Record, tables: Tables) -> list[Finding]:
    found = []
    for run in tables.runs.values():
        for told in run.deliveries():
            end = record.ends.get(told.delivery)
            if end is None or not record.certain(end) or told.reason in LOST:
                continue
            if trouble := _misfit(record, end, told):
                found.append(Finding(run.task_id, f"{_attempt(end)} {trouble}"))
    return found


def _misfit(record: Record, end: Line, told: Delivery) -> str:
    """How a delivery is told otherwise than it was; "" where it fits."""
    expected = {What.END: ["SUCCESS"], What.RAISED: ["FAILURE", "RETRY"], What.RETRIED: ["RETRY"]}[end.what]
    if told.state not in expected:
        excused = told.state in ("FAILURE", "REJECTED") and record.could_not_send(end)
        excused = excused or (told.state == "REJECTED" and end.what is not What.END and not _was_retried(record, end))
        return (
            "" if excused else f"has {end.what}, and is told as {told.state} {told.reason} {told.exception_message!r}"
        )
    error = end.detail.get("error", "")
    if end.what is What.RAISED and not told.exception_type.endswith(error):
        return f"has raised {error}, and is told to have raised {told.exception_type}"
    return ""


def _was_retried(record: Record, end: Line) -> bool:
    """Celery rejects a task whose retry the broker does not take."""
    following = (*end.epoch, end.retries + 1)
    return any(attempt_of(put) == following for put in record.puts)


def nothing_is_told_that_never_was(record: Record, tables: Tables) -> list[Finding]:
    """No success without an end, no failure of a body that did not raise, no start that was none."""
    return [
        Finding(run.task_id, f"delivery {told.delivery} (process {told.pid}) {trouble}")
        for run in tables.runs.values()
        for told in run.deliveries()
        if told.delivery and (trouble := _invention(record, told))
    ]


def _invention(record: Record, told: Delivery) -> str:
    start, end = record.starts.get(told.delivery), record.ends.get(told.delivery)
    if told.state == "SUCCESS" and (end is None or end.what is not What.END):
        return f"is told as SUCCESS, and the ledger knows {'no end' if end is None else end.what}"
    if told.verdict == "failed" and (end is None or end.what is What.RETRIED):
        return f"is told as failed, and the ledger knows {'no end' if end is None else end.what}"
    if told.started_at is not None and start is None and not _was_killed_at_once(record, told):
        return f"is told as started at {told.started_at}, and the ledger knows no start"
    return ""


def _was_killed_at_once(record: Record, told: Delivery) -> bool:
    """Between the app's word and the body's first."""
    assert told.started_at is not None
    began, pid = record.ns_of(told.started_at), told.pid or 0
    deaths = [at for at in record.deaths.get(pid, ()) if at >= began - CERTAIN_NS]
    return any(record.awake(pid, began, at) <= AROUND_A_KILL_NS for at in deaths)


def every_retry_was_sent(record: Record, tables: Tables) -> list[Finding]:
    """A delivery that is told as retried has its successor, and one whose successor was sent is told as retried."""
    sent = {attempt_of(line) for line in (*record.puts, *record.lost_puts)}
    found = []
    for run in tables.runs.values():
        for told in run.deliveries():
            following = (run.task_id, told.publication, told.generation, told.retries + 1)
            if told.verdict == "retried" and following not in sent:
                found.append(Finding(run.task_id, f"retries {told.retries} is told as retried, and nothing was sent"))
    return found


def counters_equal_the_rows(record: Record, tables: Tables) -> list[Finding]:
    """The count of starts that users see, and what the recorder says of itself."""
    started: dict[tuple[str, str], set[str]] = defaultdict(set)
    for start in record.starts.values():
        started[start.task_id, start.publication].add(start.delivery)
    found = [
        Finding(run.task_id, f"counts {run.starts} starts, the ledger {len(known)}")
        for run in tables.runs.values()
        if not _matches(record, run, known := started.get((run.task_id, run.shown.publication), set()))
    ]
    quarantined, dropped = tables.counted.get("quarantined", 0), tables.counted.get("dropped", 0)
    if quarantined != tables.quarantined or tables.quarantined:
        found.append(Finding("recorder", f"counts {quarantined} quarantined, and {tables.quarantined} are"))
    if dropped:
        found.append(Finding("recorder", f"has dropped {dropped} events"))
    return found


def _matches(record: Record, run: Run, known: set[str]) -> bool:
    told = {
        each.delivery
        for each in run.deliveries()
        if each.started_at is not None and each.publication == run.shown.publication
    }
    killed_before_their_word = told - known
    killed_before_ours = {each for each in known - told if not record.certain(record.starts[each])}
    return run.starts == len(known) + len(killed_before_their_word) - len(killed_before_ours)


def _place(start: Line) -> tuple[str, int, int]:
    return (start.publication, start.generation, start.retries)


def _place_told(told: Delivery) -> tuple[str, int, int]:
    return (told.publication, told.generation, told.retries)


def _attempt(line: Line) -> str:
    return f"generation {line.generation}, retries {line.retries}, delivery {line.delivery} (process {line.pid})"
