"""What speaks against sending a letter again, found before anything is sent."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import current_app
from django.db import connections, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from kombu.utils import json

from ..capture.envelope import Envelope
from ..conf import conf
from ..events import EventKind
from ..exceptions import EnvelopeError, NotRequeueable
from ..models import DeadLetter, TaskRun
from ..projection import writer
from ..states import DeadLetterReason


def check(letter: DeadLetter, *, force: bool) -> None:
    """Raises NotRequeueable; `force` overrides what is a matter of judgement."""
    refusal = envelope_refusal(letter)
    if refusal is not None:
        raise refusal
    if not force:
        _check_relevance(letter)


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


def notes(letter: DeadLetter) -> list[str]:
    """What a requeue of this letter does besides what people expect, in sentences. Needs its run and envelope."""
    told = []
    if needs_new_id(letter, letter.run):
        told.append(_("Gets a new task id."))
    if _chord_of(letter):
        told.append(_("Its chord has failed already: the chord's body will not run."))
    return told


def _chord_of(letter: DeadLetter) -> object:
    """The chord that the message belongs to, None where there is none or nobody can tell."""
    try:
        envelope = Envelope.from_bytes(letter.envelope or b"")
        if envelope.content_type != "application/json":
            return None
        _args, _kwargs, embed = json.loads(envelope.body)
        return embed.get("chord")
    except (EnvelopeError, ValueError, TypeError, AttributeError):
        return None


def needs_new_id(letter: DeadLetter, run: TaskRun) -> bool:
    """True for ids that workers discard again, and for those that mean another publish by now."""
    return letter.reason == DeadLetterReason.EXPIRED or letter.publication != run.publication


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
    if stale_after is not None and timezone.now() - letter.died_at > timedelta(seconds=stale_after):
        raise NotRequeueable(
            "stale", f"it died at {letter.died_at:%Y-%m-%d %H:%M} UTC, more than stale_after={stale_after} seconds ago"
        )
