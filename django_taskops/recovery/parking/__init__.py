"""Failures that Celery has not been told of, and what lets them through: once, by an order in the outbox.

An order goes step by step: the result with the chord and the chain, then each errback. A step that is done is written
down, so that one that was interrupted goes on where it stood.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery import Celery, states
from celery.app import app_or_default
from celery.app.task import Context
from django.utils import timezone
from kombu.exceptions import OperationalError
from kombu.serialization import loads, prepare_accept_content

from ...capture import headers as own
from ...capture.call import app_of, task_of
from ...capture.downstream import tell_upstream_failed
from ...capture.envelope import Envelope
from ...capture.parking import backend_of
from ...events import Event, EventKind, Outcome
from ...exceptions import TaskOpsError
from ...models import DeadLetter, OutboxEntry, OutboxKind, OutboxStatus, TaskAttempt, TaskRun
from ...states import LetterStatus
from ..pollers import impatient
from .failure import rebuilt

logger = logging.getLogger("django_taskops")


def give_up(letter: DeadLetter) -> dict[str, Any]:
    """Orders that the failure of a letter that is being discarded is let through, where it is parked; returns what
    changes with the letter. Under the lock of its run."""
    letter.refresh_from_db(fields=["parked", "let_through_at"])
    if not letter.parked:
        return {}
    OutboxEntry.objects.create(
        kind=OutboxKind.LET_THROUGH,
        key=f"{_key(letter)}{own.new_publication()}",
        payload={"dead_letter": letter.pk, "done": 0},
    )
    return {"parked": False, "let_through_at": timezone.now()}


def take_back(letter: DeadLetter) -> dict[str, Any]:
    """Withdraws such an order, as long as Celery has not been told; returns what changes with the letter. Under the
    lock of its run."""
    order = orders(letter).order_by("pk").last()
    if order is None or order.payload["done"] or order.status == OutboxStatus.DONE:
        return {}
    free = orders(letter).filter(pk=order.pk, status=order.status, tries=order.tries, claimed_until=None)
    withdrawn = free.update(status=OutboxStatus.FAILED, error="withdrawn: the letter was restored")
    return {"parked": True, "let_through_at": None} if withdrawn else {}


def orders(letter: DeadLetter) -> Any:
    """The orders of the outbox to let this letter's failure through; the newest is the last."""
    return OutboxEntry.objects.filter(kind=OutboxKind.LET_THROUGH, key__startswith=_key(letter))


def _key(letter: DeadLetter) -> str:
    return f"{OutboxKind.LET_THROUGH}:{letter.pk}:"


def let_through(entry: OutboxEntry) -> None:
    """Carries out an order. Raises what the result backend and the broker raise: it is tried again."""
    letter = DeadLetter.objects.select_related("run").filter(pk=entry.payload["dead_letter"]).first()
    if letter is None:
        return
    if _has_gone_on(letter):
        _note(entry, needless=True)
        return
    parked = _parked(letter)
    if entry.payload["done"] == 0 and parked.has_succeeded():
        _note(entry, needless=True)  # its end was lost on the way to us alone
        return
    for number, step in enumerate(parked.steps()):
        if number >= entry.payload["done"]:
            parked.tell(step)
            _note(entry, done=number + 1)
    request = parked.request
    tell_upstream_failed(parked.event(), chain=request.chain, chord=request.chord, root=request.root_id)


def _note(entry: OutboxEntry, **facts: Any) -> None:
    entry.payload |= facts
    OutboxEntry.objects.filter(pk=entry.pk).update(payload=entry.payload)


def _has_gone_on(letter: DeadLetter) -> bool:
    """True where what its task id stands for by now is not what has failed."""
    run = letter.run
    return (run.publication, run.generation) != (letter.publication, letter.generation) or run.successful


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One call of the result backend's `mark_as_failure`."""

    request: Context
    stores: bool
    is_errback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parked:
    letter: DeadLetter
    death: TaskRun | TaskAttempt
    backend: Any
    task: Any
    request: Context
    message: dict[str, Any]

    def has_succeeded(self) -> bool:
        if self.backend.as_uri() == "rpc://":  # looking there would declare a queue
            return False
        return bool(self.backend.get_state(self.letter.task_id) == states.SUCCESS)

    def steps(self) -> list[_Step]:
        """In the order in which Celery takes them."""
        errbacks = [Context(self.message, chord=None, chain=None, errbacks=[each]) for each in self._errbacks()]
        return [
            _Step(request=self.request, stores=self._stores()),
            *(_Step(request=request, stores=False, is_errback=True) for request in errbacks),
        ]

    def _errbacks(self) -> list[Any]:
        return list(self.message.get("errbacks") or ())

    def _stores(self) -> bool:
        """As Celery's `store_errors`."""
        ignored = self.message.get("ignore_result")
        ignores = (self.task is not None and self.task.ignore_result) if ignored is None else ignored
        return not ignores or bool(self.task is not None and self.task.store_errors_even_if_ignored)

    def tell(self, step: _Step) -> None:
        """An errback that is called at once, not sent, is the project's code: what it raises is its own business."""
        try:
            self.backend.mark_as_failure(
                self.letter.task_id,
                rebuilt(self.death.exception_type, self.death.exception_message, self.letter.reason),
                self.death.traceback or None,
                request=step.request,
                store_result=step.stores,
                call_errbacks=step.is_errback,
            )
        except OperationalError:
            raise
        except Exception:
            if not step.is_errback:
                raise
            logger.exception("django-taskops: an errback of %s failed", self.letter.task_id)

    def event(self) -> Event:
        """What those that wait for the task are told of it."""
        said = Outcome(exception_message=self.letter.description)
        run = self.letter.run
        return Event(
            kind=EventKind.FAILED, task_id=run.task_id, task_name=run.task_name, at=datetime.now(UTC), outcome=said
        )


def _parked(letter: DeadLetter) -> _Parked:
    message, app = _message_of(letter)
    task = task_of(app, letter.task_name)
    return _Parked(
        letter=letter,
        death=death_of(letter),
        backend=_backend(app, task),
        task=task,
        request=Context(message, errbacks=None),
        message=message,
    )


def _backend(app: Celery, task: Any) -> Any:
    """That of the task, where this process knows the task; one that hangs must not hold up the housekeeper."""
    backend = app.backend if task is None else backend_of(task)
    return impatient(app) if backend is app.backend else backend


def _message_of(letter: DeadLetter) -> tuple[dict[str, Any], Celery]:
    """What Celery calls the request of a message, and its app. Of a message that was not kept the id alone. Raises
    EnvelopeError, and what the serializer raises: it reads what the app's workers accept, and nothing else."""
    if not letter.envelope:
        return {"id": letter.task_id, "task": letter.task_name, "delivery_info": {}}, app_or_default()
    envelope = Envelope.from_bytes(letter.envelope)
    app = app_of(envelope)
    if envelope.app and app.main != envelope.app:
        raise NotTold(envelope.app)
    accepted = prepare_accept_content(app.conf.accept_content)
    args, kwargs, embed = loads(envelope.body, envelope.content_type, envelope.content_encoding, accept=accepted)
    delivery = {"exchange": envelope.exchange, "routing_key": envelope.routing_key, "redelivered": False}
    sent = {name: envelope.properties.get(name) for name in ("correlation_id", "reply_to")}
    return {**envelope.headers, **sent, "delivery_info": delivery, "args": args, "kwargs": kwargs, **(embed or {})}, app


class NotTold(TaskOpsError):
    """The housekeeper's process has not the Celery app whose result backend is to be told."""

    def __init__(self, app: str) -> None:
        super().__init__(f"expected the Celery app {app!r} in this process, found others: its workers can tell it")


def death_of(letter: DeadLetter) -> TaskRun | TaskAttempt:
    """The newest delivery that ended as the letter says, else its run."""
    attempts = letter.run.attempts.filter(
        publication=letter.publication, generation=letter.generation, reason=letter.reason
    )
    found: TaskAttempt | None = attempts.order_by("-nesting", "-number", "-seen").first()
    return found or letter.run


def is_waiting(letter: DeadLetter) -> bool:
    """True where Celery waits for what becomes of the letter."""
    return letter.parked and letter.status in (LetterStatus.OPEN, LetterStatus.REQUEUED)
