"""A ledger and tables that agree, for tests that then tamper with one of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from chaos.ledger import Line, What
from chaos.tables import Audit, Delivery, Letter, Run, Tables
from chaos.verdict.record import Record, record

MILLISECOND = 1_000_000
WALL = 1_700_000_000.0
FIRST, SECOND, OTHER = 101, 102, 103  # processes


@dataclass(slots=True)
class Story:
    """Three tasks: one that succeeds; one that is retried and then succeeds; one that fails, is put back by `ann` and
    succeeds. `now` counts in nanoseconds."""

    lines: list[Line] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    audit: list[Audit] = field(default_factory=list)
    boots: dict[str, int | None] = field(default_factory=lambda: {"boot": 1})
    quarantined: int = 0
    counted: dict[str, int] = field(default_factory=lambda: {"quarantined": 0, "dropped": 0})
    failed_hooks: list[str] = field(default_factory=list)
    now: int = 0

    def tell(self, what: What, pid: int = FIRST, after: int = MILLISECOND, **facts: Any) -> Line:
        self.now += after
        line = Line(what=what, at=self.now, pid=pid, **facts)
        self.lines.append(line)
        return line

    def record(self) -> Record:
        return record(self.lines, self.failed_hooks)

    def tables(self) -> Tables:
        return Tables(
            runs=self.runs, audit=self.audit, boots=self.boots, quarantined=self.quarantined, counted=self.counted
        )

    def change(self, task_id: str, **facts: Any) -> None:
        """Of the run."""
        self.runs[task_id] = replace(self.runs[task_id], **facts)

    def change_shown(self, task_id: str, **facts: Any) -> None:
        """Of the delivery that the run shows."""
        run = self.runs[task_id]
        self.runs[task_id] = replace(run, shown=replace(run.shown, **facts))

    def change_attempt(self, task_id: str, **facts: Any) -> None:
        """Of its first attempt."""
        run = self.runs[task_id]
        self.runs[task_id] = replace(run, attempts=[replace(run.attempts[0], **facts), *run.attempts[1:]])

    def change_lines(self, wanted: Callable[[Line], bool], **facts: Any) -> None:
        assert any(map(wanted, self.lines))
        self.lines = [replace(line, **facts) if wanted(line) else line for line in self.lines]

    def drop_lines(self, wanted: Callable[[Line], bool]) -> None:
        assert any(map(wanted, self.lines))
        self.lines = [line for line in self.lines if not wanted(line)]

    def kill(self, *pids: int, after: int = MILLISECOND, kind: str = "kill child") -> None:
        self.tell(What.FAULT, pid=1, after=after, detail={"kind": kind, "pids": list(pids)})


def quiet() -> Story:
    """Nothing went wrong."""
    story = Story()
    story.tell(What.CLOCK, detail={"wall": WALL + story.now / 1e9})
    for name in ("plain", "flaky", "failed"):
        story.tell(What.PUT, task_id=name, publication=f"p-{name}", tag=f"{name}-0")
        story.tell(What.CALLED, task_id=name)
    _plain(story)
    _flaky(story)
    _failed(story)
    return story


def _plain(story: Story) -> None:
    shown = _ran(story, "plain", What.END, SUCCEEDED)
    story.runs["plain"] = Run(task_id="plain", task_name="chaos.tasks.slow", shown=shown, starts=1)


def _flaky(story: Story) -> None:
    first = _ran(story, "flaky", What.RAISED, RETRIED)
    story.tell(What.PUT, task_id="flaky", publication="p-flaky", retries=1, tag="flaky-1")
    shown = _ran(story, "flaky", What.END, SUCCEEDED, retries=1, pid=SECOND)
    story.runs["flaky"] = Run(task_id="flaky", task_name="chaos.tasks.flaky", shown=shown, starts=2, attempts=[first])


def _failed(story: Story) -> None:
    first = _ran(story, "failed", What.RAISED, FAILED)
    story.tell(What.PUT, task_id="failed", publication="p-failed", generation=1, tag="failed-1", nonce="n1")
    told = {"letter": 7, "by": "ann", "action": "requeue", "outcome": "sent"}
    story.tell(What.DECIDED, pid=9, task_id="failed", generation=1, detail=told)
    shown = _ran(story, "failed", What.END, SUCCEEDED, generation=1, nonce="n1")
    letter = Letter(pk=7, publication="p-failed", generation=0, status="resolved", reason="failed", sent_generation=1)
    story.audit.append(
        Audit(action="requeue", task_id="failed", outcome="sent", by="ann", object_id="7", details={"generation": 1})
    )
    story.runs["failed"] = Run(
        task_id="failed", task_name="chaos.tasks.failing", shown=shown, starts=2, attempts=[first], letters=[letter]
    )


SUCCEEDED: Mapping[str, Any] = {"state": "SUCCESS", "verdict": "succeeded"}
RETRIED: Mapping[str, Any] = {"state": "RETRY", "verdict": "retried", "exception_type": "chaos.tasks.Unlucky"}
FAILED: Mapping[str, Any] = {
    "state": "FAILURE",
    "verdict": "failed",
    "reason": "failed",
    "exception_type": "chaos.tasks.Unlucky",
}


def _ran(
    story: Story, name: str, end: What, told: Mapping[str, Any], pid: int = FIRST, nonce: str = "", **place: Any
) -> Delivery:
    """Writes the lines of one delivery, and returns how the app tells of it."""
    delivery = f"d-{name}-{place.get('generation', 0)}-{place.get('retries', 0)}"
    facts: dict[str, Any] = {
        "task_id": name,
        "task": "chaos.tasks.slow",
        "publication": f"p-{name}",
        "delivery": delivery,
        "tag": f"{name}-{place.get('generation', 0) + place.get('retries', 0)}",
        "nonce": nonce,
        **place,
    }
    start = story.tell(What.START, pid=pid, **facts)
    story.tell(end, pid=pid, after=10 * MILLISECOND, **facts, detail={"error": "Unlucky"} if end is What.RAISED else {})
    story.tell(What.OURS, pid=pid, task_id=name, detail=_spent(story.now, 1.0))
    return Delivery(
        delivery=delivery,
        publication=facts["publication"],
        started_at=datetime.fromtimestamp(WALL + start.at / 1e9, UTC),
        pid=pid,
        boot_id="boot",
        **place,
        **told,
    )


def _spent(began: int, milliseconds: float) -> dict[str, Any]:
    spent = int(milliseconds * MILLISECOND)
    return {"began": began, "wall": spent, "net": spent, "cpu": spent, "calls": 4, "slow": []}


def spend(story: Story, milliseconds: float, pid: int = FIRST) -> None:
    """Another execution that took this long in the app's code."""
    story.tell(What.OURS, pid=pid, task_id="plain", detail=_spent(story.now, milliseconds))


def of(task_id: str, *kinds: What) -> Callable[[Line], bool]:
    return lambda line: line.task_id == task_id and line.what in kinds


def said(findings: Sequence[object]) -> str:
    return "\n".join(map(str, findings))
