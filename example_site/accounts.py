"""Compares what the demo counted by itself with what the database says. Pure: no Django, no processes."""

from collections.abc import Iterable
from dataclasses import dataclass

from example_site.ledger import Ledger

FINAL_STATES = {"SUCCESS", "FAILURE", "REVOKED", "REJECTED", "IGNORED"}
ENDED_BADLY = {"FAILURE", "REVOKED", "REJECTED"}
NEVER_PUBLISHED = "upstream_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the database says of one task."""

    task_id: str
    name: str
    subject: str
    state: str
    reason: str
    error: str = ""
    attempts: int = 1
    trouble: tuple[str, ...] = ()  # how the attempts before the last ended
    letters: tuple[str, ...] = ()  # the statuses of its dead letters

    @property
    def waits_upstream(self) -> bool:
        return self.reason == NEVER_PUBLISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    task_id: str
    name: str
    text: str


def differences(ledger: Ledger, runs: Iterable[Run]) -> list[Difference]:
    """Empty when every published task is in the database, in a final state, as the worker saw it end."""
    known = {run.task_id: run for run in runs}
    missing = [
        Difference(task_id=task_id, name=ledger.names[task_id], text="published, but the database has no row")
        for task_id in ledger.published
        if task_id not in known
    ]
    wrong = [
        Difference(task_id=run.task_id, name=run.name, text=text)
        for run in known.values()
        if (text := _what_is_wrong(ledger, run))
    ]
    return missing + wrong


def _what_is_wrong(ledger: Ledger, run: Run) -> str:
    if run.task_id not in ledger.published:
        return "" if run.waits_upstream else "in the database, but nobody published it"
    if run.state not in FINAL_STATES:
        return f"still {run.state}"
    verdict = ledger.verdict(run.task_id)
    if run.state != verdict:
        return f"{run.state} in the database, {verdict} in the worker"
    return _what_is_unexplained(run)


def _what_is_unexplained(run: Run) -> str:
    if run.state not in ENDED_BADLY:
        return ""
    if not run.reason:
        return f"{run.state} without a reason"
    return "" if run.letters else f"{run.state} without a dead letter"
