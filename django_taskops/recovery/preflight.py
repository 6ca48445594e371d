"""What speaks against sending a letter again, found before anything is sent."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

from celery import current_app
from django.db import transaction
from django.utils import timezone

from ..conf import conf
from ..exceptions import NotRequeueable
from ..models import DeadLetter, TaskRun
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


def needs_new_id(letter: DeadLetter, run: TaskRun) -> bool:
    """True for ids that workers discard again, and for those that mean another publish by now."""
    return letter.reason == DeadLetterReason.EXPIRED or letter.publication != run.publication


@contextmanager
def outermost_transaction() -> Iterator[None]:
    """A transaction that has committed when it ends. Raises NotRequeueable inside an open one."""
    with ExitStack() as stack:
        try:
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
