"""Which runs belong to a workflow. Reads a few columns, in a number of queries that its size does not change."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from ...models import Chord, TaskRun
from .records import Record

MAX_RUNS = 10_000
MAX_ROUNDS = 4  # each finds the groups that those found before are nested in
MAX_GROUPS = 1_000  # asked for in one round
_COLUMNS = Record._fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`more` where there are more than MAX_RUNS, `deeper` where there are groups that were not asked for."""

    records: tuple[Record, ...]
    more: bool
    deeper: bool


def runs_of_workflow(run: TaskRun) -> Found:
    """What has the same root, and the other members of its groups with what has their roots: each member of a group or
    chord that nothing stands before is a root of its own."""
    root = run.root_id or run.task_id
    found = {run.task_id: Record._make(getattr(run, name) for name in _COLUMNS)}
    more = _add(found, TaskRun.objects.filter(root_id=root))
    asked: set[str] = set()
    for _round in range(MAX_ROUNDS):
        groups = sorted(_groups(found.values()) - asked)[:MAX_GROUPS]
        if more or not groups:
            break
        asked.update(groups)
        more = _add(found, _beside(root, groups))
    records = tuple(_labelled(found, sorted(asked)))
    return Found(records=records, more=more, deeper=not more and bool(_groups(found.values()) - asked))


def _labelled(found: Mapping[str, Record], groups: Sequence[str]) -> Iterator[Record]:
    """Before Celery 5.7 the message of a chord's body does not name the group that it follows: its publisher has. Where
    several chords end with one task, it follows the outermost, which was told first."""
    told = Chord.objects.filter(group_id__in=groups).order_by("-pk").values_list("body_id", "group_id")
    follows = dict(told) if groups else {}
    for record in found.values():
        yield record if record.group_id else record._replace(group_id=follows.get(record.task_id, ""))


def _beside(root: str, groups: Iterable[str]) -> QuerySet[TaskRun]:
    roots = TaskRun.objects.filter(group_id__in=groups).exclude(root_id__in=("", root)).values("root_id")
    beside: QuerySet[TaskRun] = TaskRun.objects.filter(root_id__in=roots).exclude(root_id="")
    return beside


def _groups(records: Iterable[Record]) -> set[str]:
    return {record.group_id for record in records if record.group_id}


def _add(found: dict[str, Record], runs: "QuerySet[Any]") -> bool:
    """True where not all of them fit. In no order: sorting would read them all."""
    left = MAX_RUNS - len(found)
    rows = list(runs.order_by().values_list(*_COLUMNS)[: left + len(found) + 1])
    for row in rows:
        record = Record._make(row)
        if len(found) >= MAX_RUNS and record.task_id not in found:
            return True
        found.setdefault(record.task_id, record)
    return False
