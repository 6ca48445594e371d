"""Whether what a letter wanted has been done since: the same task with equal arguments has succeeded later.

Arguments are compared as they are shown. Those that are masked or cut in part are equal to nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import F
from django.utils.timesince import timesince
from kombu.utils import json

from ..capture.redaction import is_whole
from ..models import DeadLetter, TaskRun
from ..states import TaskState

LOOKED_AT = 1000  # of each task's successes, the newest


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """The first success after the death, and how much later it was."""

    task_id: str
    after: timedelta

    @property
    def later(self) -> str:
        """In words: "3 minutes"."""
        start = datetime(2000, 1, 1)  # noqa: DTZ001 only the difference counts
        return timesince(start, start + self.after, depth=1) if self.after >= timedelta(minutes=1) else "moments"


@dataclass(frozen=True, slots=True)
class Healings:
    """By primary key of the letter."""

    _found: Mapping[int, Healed] = field(default_factory=dict)

    def of_letter(self, pk: int) -> Healed | None:
        return self._found.get(pk)

    @classmethod
    def of(cls, letters: Sequence[int]) -> "Healings":
        """One query, and one more for each task that they are of."""
        by_task: dict[str, list[tuple[int, int, datetime, str]]] = defaultdict(list)
        columns = ("pk", "task_name", "run_id", "died_at", "run__args", "run__kwargs")
        same = DeadLetter.objects.filter(  # what was sent since under the same id may have had other arguments
            pk__in=letters, publication=F("run__publication"), generation=F("run__generation")
        )
        for pk, name, run, died_at, args, kwargs in same.values_list(*columns):
            if (call := _call(args, kwargs)) and name:
                by_task[name].append((pk, run, died_at, call))
        return cls({pk: healed for name, dead in by_task.items() for pk, healed in _healed(name, dead)})


def _healed(task_name: str, dead: Sequence[tuple[int, int, datetime, str]]) -> Iterable[tuple[int, Healed]]:
    since = min(died_at for _pk, _run, died_at, _call in dead)
    found = TaskRun.objects.filter(task_name=task_name, state=TaskState.SUCCESS, finished_at__gt=since)
    successes: dict[str, list[tuple[datetime, int, str]]] = defaultdict(list)
    columns = ("pk", "task_id", "args", "kwargs", "finished_at")
    for run, task_id, args, kwargs, finished_at in found.order_by("-pk").values_list(*columns)[:LOOKED_AT]:
        successes[_call(args, kwargs)].append((finished_at, run, task_id))
    for pk, own_run, died_at, call in dead:
        later = [each for each in successes.get(call, ()) if each[0] > died_at and each[1] != own_run]
        if later:
            finished_at, _run, task_id = min(later)
            yield pk, Healed(task_id=task_id, after=finished_at - died_at)


def _call(args: Any, kwargs: Any) -> str:
    """The arguments as one text, "" where they are not known whole."""
    known = args is not None and kwargs is not None and is_whole(args) and is_whole(kwargs)
    return json.dumps([args, kwargs], sort_keys=True) if known else ""
