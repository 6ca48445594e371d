"""Which dead letters a command or a page means: found once, pinned by their primary keys, then decided on."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from django.db.models import Max, QuerySet

from ..capture.text import storable_id
from ..exceptions import NotRequeueable
from ..models import DeadLetter
from ..states import LetterStatus
from . import preflight
from .requeue import BATCH

ANYTHING = "*"
ALREADY_TAKEN = "already_taken"
OUTLOOKS = 10  # letters of which it is said what follows them


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Open letters; `task` is a name, or a pattern with "*" in it; `since` and `until` are of their deaths."""

    task: str = ""
    reason: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        return any((self.task, self.reason, self.since, self.until))

    def letters(self) -> QuerySet[Any]:
        found: QuerySet[Any] = DeadLetter.objects.filter(status=LetterStatus.OPEN)
        if self.task:
            found = found.filter(**_named(self.task))
        if self.reason:
            found = found.filter(reason=self.reason)
        if self.since:
            found = found.filter(died_at__gte=self.since)
        return found.filter(died_at__lt=self.until) if self.until else found


def _named(task: str) -> dict[str, str]:
    if ANYTHING not in task:
        return {"task_name": task}
    return {"task_name__regex": f"^{'.*'.join(map(re.escape, task.split(ANYTHING)))}$"}


def pinned(filters: Filters, limit: int | None = None) -> list[int]:
    """Their primary keys, the oldest first."""
    return list(filters.letters().order_by("pk").values_list("pk", flat=True)[:limit])


def newest_of(task_ids: Sequence[str]) -> tuple[list[int], list[str]]:
    """The newest letter of each task, whatever its status, and the ids that have none."""
    stored = {storable_id(each): each for each in task_ids}
    found: dict[str, int] = {}
    for chunk in _chunks(stored, BATCH):
        rows = DeadLetter.objects.filter(task_id__in=chunk).values_list("task_id").annotate(Max("pk"))
        found |= dict(rows.order_by())
    return [found[each] for each in stored if each in found], [stored[each] for each in stored if each not in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a requeue of some letters would do. `refused` counts by code, `examples` has a sentence for each. `outlook`
    says of the first tasks what will run next."""

    matching: int
    refused: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    outlook: Sequence[str] = ()

    @property
    def rerunnable(self) -> int:
        return self.matching - sum(self.refused.values())


def preview(letters: Sequence[int], *, force: bool) -> Preview:
    """Looks at them a hundred at a time, and keeps none."""
    refused: Counter[str] = Counter()
    examples: dict[str, str] = {}
    outlook: list[str] = []
    for chunk in _chunks(letters, BATCH):
        still_open = list(DeadLetter.objects.filter(pk__in=chunk, status=LetterStatus.OPEN).select_related("run"))
        refusals = _refusals(still_open, force=force)
        taken = [(ALREADY_TAKEN, "somebody has decided on it before")] * (len(chunk) - len(still_open))
        for code, sentence in [*taken, *((each.code, each.detail) for each in refusals.values())]:
            refused[code] += 1
            examples.setdefault(code, sentence)
        outlook += _outlook([letter for letter in still_open if letter.pk not in refusals][: OUTLOOKS - len(outlook)])
    return Preview(matching=len(letters), refused=refused, examples=examples, outlook=outlook)


def _refusals(letters: Sequence[DeadLetter], *, force: bool) -> dict[int, NotRequeueable]:
    found = preflight.review(letters)
    return {pk: refusal for pk, refusal in found.items() if not (force and refusal.code in preflight.FORCEABLE)}


def _outlook(letters: Sequence[DeadLetter]) -> Iterator[str]:
    notes = preflight.notes(letters)
    for letter in letters:
        if notes[letter.pk]:
            yield f"{letter.task_name} {letter.task_id}: {' '.join(notes[letter.pk])}"


def _chunks(items: Any, size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
