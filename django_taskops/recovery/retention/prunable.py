"""What may go by now, by RETENTION and KEEP_SUCCESS: rows of each kind, and how they are deleted.

Never waits for a lock of another transaction while it holds one of its own: what somebody else has locked goes at a
later pass. Whoever writes to a run or to its letters holds the lock of the run, and so does this.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.expressions import RawSQL
from django.utils import timezone

from ...conf import conf, problems
from ...models import (
    Chord,
    ChordResult,
    DeadLetter,
    OutboxEntry,
    OutboxKind,
    OutboxStatus,
    RunEnvelope,
    TaskAttempt,
    TaskRun,
    WorkerBeat,
)
from ...projection.chords import BADLY_ENDED
from ...projection.clock import DatabaseNow
from ...projection.limits import Limits, limited_transaction
from ...projection.writer import DATABASE_ID, lock_for_writing
from ...states import FINISHED, SETTLED, UNFINISHED, LetterStatus, QuietReason
from ..editing.drafts import LIFETIME as DRAFT_LIFETIME
from . import sampling

OWN_DAYS = 7
CLAIM_DAYS = 31
MOST_DAYS = 36_500  # a number beyond it would leave the calendar
WINDOW = 5000  # rows that are looked at in one statement, without a lock
LIMITS = Limits(
    postgresql={
        "lock_timeout": 100,
        "statement_timeout": 30_000,
        "idle_in_transaction_session_timeout": 30_000,
        # Without statistics of the newest rows, the planner may read and sort a whole table for each batch.
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
    },
    mysql={"innodb_lock_wait_timeout": 1, "lock_wait_timeout": 1, "wait_timeout": 30},
)


@contextmanager
def transaction() -> Iterator[None]:
    with limited_transaction(LIMITS):
        lock_for_writing()
        yield


@contextmanager
def _reading() -> Iterator[None]:
    """For PostgreSQL's planner a transaction too; SQLite's would take the lock."""
    with transaction() if connections[conf.DATABASE].vendor == "postgresql" else nullcontext():
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one kind, in the order of `keys`, the last of which is "pk". Those that are `due` may go."""

    kind: str
    rows: QuerySet[Any]
    due: Q
    keys: Sequence[str] = ("pk",)

    def count(self) -> int:
        return self.rows.filter(self.due).count()

    def windows(self) -> Iterator[Sequence[int]]:
        """The keys of those that are due, looked for among some thousand rows at a time. What is kept is seen once."""
        ordered = self.rows.order_by(*self.keys).annotate(due=self.due).values_list(*self.keys, "due")
        place = Q()
        while True:
            with _reading():
                found = list(ordered.filter(place)[:WINDOW])
            yield [row[-2] for row in found if row[-1]]
            if len(found) < WINDOW:
                return
            place = _after(dict(zip(self.keys, found[-1][:-1], strict=True)))

    def lock(self, pks: Collection[int]) -> Sequence[int]:
        """Those that are still due and that nobody else has locked."""
        return list(_locked(self.rows.filter(self.due, pk__in=_among(pks))))

    def delete(self, pks: Collection[int]) -> int:
        return _delete(self.rows.model, pk__in=self.lock(pks))


class _Runs(Rows):
    """A run goes when no letter refers to it any more."""

    __slots__ = ()

    def count(self) -> int:
        letters = DeadLetter.objects.filter(~_due_letters(), run=OuterRef("pk"))
        return self.rows.filter(self.due).filter(~Exists(letters)).count()

    def delete(self, pks: Collection[int]) -> int:
        locked = set(self.lock(pks))  # from now on, nobody adds a letter or an attempt
        locked -= set(DeadLetter.objects.filter(run__in=_among(locked)).values_list("run", flat=True))
        _delete(TaskAttempt, run__in=locked)
        _delete(RunEnvelope, run__in=locked)
        return _delete(TaskRun, pk__in=locked)


class _Letters(Rows):
    """The letters that followed one do not point back to it any more."""

    __slots__ = ()

    def delete(self, pks: Collection[int]) -> int:
        letters = self.rows.filter(self.due, pk__in=_among(pks))
        runs = list(_locked(TaskRun.objects.filter(pk__in=letters.values("run"))))
        chosen = set(letters.filter(run__in=_among(runs)).values_list("pk", flat=True))
        following = dict(DeadLetter.objects.filter(previous__in=_among(chosen)).values_list("pk", "previous"))
        free = set(_locked(DeadLetter.objects.filter(pk__in=_among(following))))
        chosen -= {previous for pk, previous in following.items() if pk not in free}
        DeadLetter.objects.filter(pk__in=_among(free), previous__in=_among(chosen)).update(previous=None)
        return _delete(DeadLetter, pk__in=chosen)


class _Chords(Rows):
    __slots__ = ()

    def delete(self, pks: Collection[int]) -> int:
        locked = self.lock(pks)
        _delete(ChordResult, chord__in=locked)
        return _delete(Chord, pk__in=locked)


def _after(place: dict[str, Any]) -> Q:
    """Rows beyond `place`, the values of one or two keys. The first key says it alone too: only so an index helps."""
    pk = Q(pk__gt=place.pop("pk"))
    for key, value in place.items():
        return Q((f"{key}__gte", value)) & (Q((f"{key}__gt", value)) | pk)
    return pk


def _locked(rows: QuerySet[Any]) -> QuerySet[Any, int]:
    """The primary keys of `rows` that are not locked by others, each locked until the end of the transaction."""
    able = connections[rows.db].features.has_select_for_update_skip_locked
    return rows.select_for_update(skip_locked=able).order_by("pk").values_list("pk", flat=True)


def _among(pks: Collection[int]) -> Any:
    """For `__in`: one parameter instead of thousands, which take longer to write and to read than the rows to find."""
    vendor = connections[conf.DATABASE].vendor
    if vendor == "postgresql":
        return RawSQL("SELECT unnest(%s::bigint[])", [list(pks)])
    if vendor == "sqlite":
        return RawSQL("SELECT value FROM json_each(%s)", [json.dumps(list(pks))])
    return list(pks)


def _delete(model: type[Any], **chosen: Collection[int]) -> int:
    """In one statement: no signals, and nothing is fetched to look for what refers to it."""
    ((column, pks),) = chosen.items()
    if not pks:
        return 0
    rows = model.objects.filter(**{column: _among(pks)})
    return int(rows._raw_delete(rows.db))  # noqa: SLF001 `delete()` reads all rows that signals or relations might need


def all_rows(sampled_until: datetime | None = None) -> Sequence[Rows]:
    """Everything that may go by now. Letters first: they keep their runs."""
    days = _retention()
    runs = (("success", SETTLED), ("failure", FINISHED - SETTLED))
    kept = [_runs(kind, states, days[kind]) for kind, states in runs if days[kind] is not None]
    if days["dead_letter"] is not None:
        kept.insert(0, _Letters(kind="dead_letter", rows=DeadLetter.objects.all(), due=_due_letters()))
    if conf.KEEP_SUCCESS < 1:
        kept.append(_sampled(days["success"], sampled_until))
    return [*kept, *_own_rows()]


def _retention() -> dict[str, int | None]:
    """What deletes must not guess: a value that can't be right deletes nothing."""
    for problem in problems():
        if problem.key in ("RETENTION", "KEEP_SUCCESS"):
            raise ImproperlyConfigured(f"{problem.key}: expected {problem.expected}, got {problem.got!r}")
    return dict(conf.retention())


def _runs(kind: str, states: Collection[str], days: int | None) -> Rows:
    rows = TaskRun.objects.filter(finished_at__lt=_ago(days))
    return _Runs(kind=kind, rows=rows, due=Q(state__in=sorted(states)) & ~_given_up(), keys=("finished_at", "pk"))


def _given_up() -> Q:
    """What runs after all once its cause is put back, by the letter of that, also where it has moved since."""
    moved = TaskRun.objects.filter(task_id=OuterRef(OuterRef("parent_id"))).exclude(requeued_from="")
    letters, parent = _waiting_letters(), OuterRef("parent_id")
    cause = Exists(letters.filter(task_id=parent)) | Exists(letters.filter(task_id__in=moved.values("requeued_from")))
    return Q(reason=QuietReason.UPSTREAM_FAILED) & cause


def _sampled(days: int | None, sampled_until: datetime | None) -> Rows:
    """What "success" deletes by its age is not counted again."""
    rows = sampling.ended(sampled_until)
    young = rows if days is None else rows.filter(finished_at__gte=_ago(days))
    return _Runs(kind="sampled", rows=young, due=sampling.not_kept(), keys=("finished_at", "pk"))


def _due_letters() -> Q:
    days = _retention()["dead_letter"]
    if days is None:
        return Q(pk__in=())
    decided = (LetterStatus.RESOLVED, LetterStatus.DISCARDED, LetterStatus.SUPERSEDED)
    age = Q(decided_at__lt=_ago(days)) | Q(decided_at=None, died_at__lt=_ago(days))
    return Q(status__in=decided) & age


def _own_rows() -> Iterator[Rows]:
    """What this app needs for itself. Who has claimed what is kept for longer; this database's own id for ever."""
    carried_out = Q(status__in=(OutboxStatus.DONE, OutboxStatus.FAILED), created_at__lt=_ago(OWN_DAYS))
    claims = Q(kind=OutboxKind.CLAIM, created_at__lt=_ago(CLAIM_DAYS)) & ~Q(key=f"{OutboxKind.CLAIM}:{DATABASE_ID}")
    drafts = Q(kind=OutboxKind.DRAFT, created_at__lt=timezone.now() - DRAFT_LIFETIME)
    outbox = carried_out & ~Q(kind__in=(OutboxKind.CLAIM, OutboxKind.LEASE)) | claims | drafts
    yield Rows(kind="outbox", rows=OutboxEntry.objects.all(), due=outbox)
    silent = Q(applied_at__lt=DatabaseNow() - timedelta(days=OWN_DAYS))  # the database's clock on both sides
    yield Rows(kind="worker", rows=WorkerBeat.objects.all(), due=silent)
    yield _Chords(kind="chord", rows=Chord.objects.all(), due=_due_chords())


def _due_chords() -> Q:
    """None whose body may run yet: while a member runs, has ended of late, or can be put back."""
    members = TaskRun.objects.filter(group_id=OuterRef("group_id")).exclude(group_id="")  # as its partial index says
    running = Q(state__in=sorted(UNFINISHED)) | Q(finished_at__gte=_ago(CLAIM_DAYS))
    dead = Q(reason__in=BADLY_ENDED) | Q(Exists(_waiting_letters().filter(run=OuterRef("pk"))))
    return Q(created_at__lt=_ago(CLAIM_DAYS)) & Q(~Exists(members.filter(running | dead)))


def _waiting_letters() -> QuerySet[Any]:
    return DeadLetter.objects.filter(status__in=(LetterStatus.OPEN, LetterStatus.REQUEUED))


def _ago(days: int | None) -> datetime:
    """Aware or naive, as the project has it. Not for None, which is for ever."""
    assert days is not None
    return timezone.now() - timedelta(days=min(days, MOST_DAYS))
