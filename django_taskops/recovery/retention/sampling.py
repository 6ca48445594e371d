"""Which successes KEEP_SUCCESS does not keep.

They are not left out when they are written: a front end polls until it sees the success, and what is told late or twice
of a run that is not there any more would look like another one, whose end is missing.
"""

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from ...conf import conf
from ...models import Chord, DeadLetter, TaskAttempt, TaskRun
from ...states import LetterStatus, TaskState

AFTER = timedelta(minutes=10)
LATE = timedelta(hours=1)  # after its end; what is told later is found when the next process begins

_PARTS = 10_000
_SCATTER = 6181  # near the golden ratio of _PARTS, and prime: neighbours get places that are far apart


def ended_before() -> datetime:
    """Aware or naive, as the project has it."""
    return timezone.now() - AFTER


def ended(looked_until: datetime | None) -> QuerySet[Any]:
    """The runs to look at: of those that ended before `looked_until`, an earlier pass has left what is kept."""
    runs: QuerySet[Any] = TaskRun.objects.filter(finished_at__lt=ended_before())
    if looked_until is not None:
        runs = runs.filter(finished_at__gte=looked_until - LATE)
    placed: QuerySet[Any] = runs.alias(place=F("pk") * _SCATTER % _PARTS)
    return placed


def not_kept() -> Q:
    """By the key of the run, so that all passes of all processes agree. The history of a failure stays: what was tried
    more than once, was requeued, or has left a letter. So does what a person has to know who decides on a letter: that
    the same has been done since. And so do the members of a chord that may be joined here."""
    tried_again, lettered = (Exists(model.objects.filter(run=OuterRef("pk"))) for model in (TaskAttempt, DeadLetter))
    first = Q(state=TaskState.SUCCESS, generation=0, requeued_from="")
    waiting = DeadLetter.objects.filter(status=LetterStatus.OPEN).order_by().values_list("task_name", flat=True)
    first &= ~Q(task_name__in=list(waiting.distinct()))
    return first & Q(place__gte=round(conf.KEEP_SUCCESS * _PARTS)) & ~tried_again & ~lettered & Q(~_awaited())


def _awaited() -> Exists:
    """As long as its body is not published, a member of a chord may die; then the success of the others counts."""
    body = TaskRun.objects.filter(task_id=OuterRef("body_id")).exclude(described="")
    return Exists(Chord.objects.filter(group_id=OuterRef("group_id")).exclude(Exists(body)))
