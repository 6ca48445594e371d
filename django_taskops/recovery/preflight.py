"""What speaks against sending a letter again, found before anything is sent."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from celery import current_app
from django.db import connections, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from ..conf import conf
from ..events import EventKind
from ..exceptions import NotRequeueable
from ..models import DeadLetter, TaskRun
from ..projection import writer
from ..states import DeadLetterReason, TaskState
from . import workers
from .canvas import Following, KnownChords, following
from .healed import Healed, Healings
from .message import Changes, arguments_of, envelope_of
from .outlook import outlook

FORCEABLE = frozenset(
    {
        "running",
        "redelivery_pending",
        "stale",
        "healed",
        "unregistered",
        "bad_arguments",
        "canvas_unreadable",
        "chord_unknown",
        "chord_results_lost",
    }
)
"""The codes of refusals that are a matter of judgement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is known around the letters of a batch. `registered` are the names of the tasks that live workers have, None
    where that is not known of all of them, or none lives."""

    registered: frozenset[str] | None = None
    healings: Healings = field(default_factory=Healings)
    chords: KnownChords = field(default_factory=KnownChords)


def look_around(letters: Sequence[int]) -> Surroundings:
    """For `check`, of the letters with these primary keys: a few queries, whatever their number."""
    return Surroundings(registered=workers.registered_by_all(), healings=Healings.of(letters))


def check(
    letter: DeadLetter,
    run: TaskRun,
    follows: Following,
    changes: Changes,
    surroundings: Surroundings,
    *,
    force: bool = False,
) -> None:
    """Raises NotRequeueable; `force` overrides what is a matter of judgement. `follows` is what its message says. Under
    the lock of the run, if it is to hold."""
    if refusal := envelope_refusal(letter):
        raise refusal
    if not force:
        check_idle(letter, run)
        _check_relevance(letter)
        if not letter.parked:  # what waits for this one is not helped by another
            _check_not_healed(surroundings.healings.of_letter(letter.pk))
        _check_registered(letter, surroundings)
        _check_arguments(letter, follows, changes)
        surroundings.chords.check(letter, follows)


def review(letters: Iterable[DeadLetter], changes: Changes | None = None) -> dict[int, NotRequeueable]:
    """Why which of these letters, by primary key, would be refused now, as they are or with `changes`. They come with
    their runs."""
    letters = list(letters)
    surroundings = look_around([letter.pk for letter in letters])
    changes = changes or Changes.checked(attempts="fresh")
    refused = {}
    for letter in letters:
        try:
            check(letter, letter.run, following(letter.envelope), changes, surroundings)
        except NotRequeueable as refusal:
            refused[letter.pk] = refusal
    return refused


def envelope_refusal(letter: DeadLetter) -> NotRequeueable | None:
    """Why the letter has no message to send; None where it has one."""
    if letter.envelope:
        return None
    if "exceeds the limit" in letter.envelope_error:
        return NotRequeueable("payload_too_large", f"not re-runnable: {letter.envelope_error}")
    detail = letter.envelope_error or "its message was never recorded"
    return NotRequeueable("envelope_missing", f"not re-runnable: {detail}")


def check_idle(letter: DeadLetter, run: TaskRun) -> None:
    """Raises NotRequeueable where the broker has delivered the task again, or is about to. Under the lock of the
    run."""
    if (run.publication, run.generation) != (letter.publication, letter.generation) or run.ready:
        return
    due = redelivery_due(run)
    if due is None:
        raise NotRequeueable(
            "running", f"the broker has delivered it again, its state is {run.state}: wait for its end, or force it"
        )
    if due > datetime.now(UTC):
        raise NotRequeueable(
            "redelivery_pending",
            f"its worker was lost, and the broker delivers it again by {due:%Y-%m-%d %H:%M} UTC: wait until then, or "
            "force it",
        )


def redelivery_due(run: TaskRun) -> datetime | None:
    """By when the broker delivers again what a lost worker held; None where it held nothing."""
    due = run.retry_at if run.verdict == EventKind.ABANDONED else None
    return timezone.make_aware(due) if due is not None and timezone.is_naive(due) else due


def notes(letters: Iterable[DeadLetter]) -> dict[int, list[str]]:
    """What a requeue of these letters does besides what people expect, in sentences, by primary key. Needs their runs
    and envelopes; a few queries, whatever their number."""
    letters = list(letters)
    told = outlook(letters)
    return {
        letter.pk: [*([_("Gets a new task id.")] if needs_new_id(letter, letter.run) else ()), *told[letter.pk]]
        for letter in letters
    }


def needs_new_id(letter: DeadLetter, run: TaskRun) -> bool:
    """True for ids that workers discard again, revoked or expired, and for those that mean another publish by now."""
    discarded = letter.reason == DeadLetterReason.EXPIRED or run.state == TaskState.REVOKED
    return discarded or letter.publication != run.publication


@contextmanager
def outermost_transaction() -> Iterator[None]:
    """A transaction that has committed when it ends. Raises NotRequeueable inside an open one."""
    with ExitStack() as stack:
        try:
            if writer.in_transaction() and not connections[conf.DATABASE].in_atomic_block:
                raise RuntimeError("autocommit is off")  # noqa: TRY301 the same refusal
            stack.enter_context(transaction.atomic(using=conf.DATABASE, durable=True))
        except RuntimeError as error:
            raise NotRequeueable(
                "in_transaction",
                "expected no open transaction, got one: what is sent can't be rolled back; requeue outside atomic()",
            ) from error
        yield


def _check_relevance(letter: DeadLetter) -> None:
    task: Any = current_app.tasks.get(letter.task_name)
    stale_after = task.taskops.stale_after if hasattr(task, "taskops") else None
    if stale_after is not None and (timezone.now() - letter.died_at).total_seconds() > stale_after:
        raise NotRequeueable(
            "stale", f"it died at {letter.died_at:%Y-%m-%d %H:%M} UTC, more than stale_after={stale_after} seconds ago"
        )


def _check_not_healed(healed: Healed | None) -> None:
    if healed is not None:
        raise NotRequeueable(
            "healed",
            f"healed {healed.later} later by {healed.task_id}: the same task with equal arguments has succeeded since; "
            "force it where it has to run once more",
        )


def _check_registered(letter: DeadLetter, surroundings: Surroundings) -> None:
    known = surroundings.registered is None or letter.task_name in surroundings.registered
    if letter.task_name and not known:
        raise NotRequeueable(
            "unregistered",
            f"no live worker has registered {letter.task_name!r}, it would die again: start one that has, or force it",
        )


def _check_arguments(letter: DeadLetter, follows: Following, changes: Changes) -> None:
    """By the task's signature as this process knows it, as Celery checks them where a task is called."""
    task: Any = current_app.tasks.get(letter.task_name)
    header = getattr(task, "__header__", None)
    envelope = follows.envelope or envelope_of(letter)
    if header is None or not task.typing or (found := arguments_of(envelope)) is None:
        return
    args = found[0] if changes.args is None else changes.args
    kwargs = found[1] if changes.kwargs is None else changes.kwargs
    try:
        header(*args, **kwargs)
    except TypeError as error:
        raise NotRequeueable(
            "bad_arguments",
            f"its arguments do not fit the task any more: {error}; edit them, or force it where workers run other code",
        ) from error
