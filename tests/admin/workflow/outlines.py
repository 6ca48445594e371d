"""Workflows as text: `a > chord[b | c] > d`. What never ran stands in parentheses, what failed has a `!`."""

from collections.abc import Iterable
from typing import Any

from django_taskops.admin.workflow.folding import Branches, Flow, Folded, Part, Step, fold
from django_taskops.admin.workflow.graph import link
from django_taskops.admin.workflow.records import Record


def record(task_id: str, parent: str = "", group: str = "", index: int | None = None, **fields: Any) -> Record:
    known: dict[str, Any] = {
        "pk": int.from_bytes(task_id.encode()),
        "task_name": task_id,
        "state": "SUCCESS",
        "reason": "",
        "exception_type": "",
        "root_id": "",
        "enqueued_at": None,
        "seen": 0,
    }
    return Record(task_id=task_id, parent_id=parent, group_id=group, group_index=index, **{**known, **fields})


def failed(task_id: str, parent: str = "", group: str = "", index: int | None = None, **fields: Any) -> Record:
    return record(task_id, parent, group, index, **{"state": "FAILURE", "reason": "failed", **fields})


def never(task_id: str, parent: str, seen: int, group: str = "", index: int | None = None) -> Record:
    """What hangs on the run that failed, the `seen`th in the order of the canvas."""
    return record(task_id, parent, group, index, state="FAILURE", reason="upstream_failed", seen=seen)


def outline(records: Iterable[Record], here: str = "") -> str:
    return told(fold(link(records), here))


def told(flow: Flow) -> str:
    return " > ".join(map(_part, flow))


def _part(part: Part) -> str:
    if isinstance(part, Step):
        name = part.record.task_name.rpartition(".")[2]
        return f"({name})" if part.record.never_ran else f"{name}!" if part.record.state == "FAILURE" else name
    if isinstance(part, Folded):
        return " ".join(f"{number} {status}" for status, number in part.counts)
    return f"{_kind(part)}[{' | '.join(map(told, part.lanes))}]"


def _kind(branches: Branches) -> str:
    return "chord" if branches.is_chord else "group" if branches.is_group else ""
