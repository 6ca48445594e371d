"""Puts back what lies in a dead-letter queue: one of ours, or one that a project or RabbitMQ has filled by itself.

A notice of a dead letter, and the very message that a letter was written for, have the letter decided on, as anywhere.
Any other message is sent again as it is, to the queue that it came from, whatever letters its task id may have: it is
of another generation or publication than they. A message leaves the queue once it has been decided on, no sooner.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from celery import Celery, current_app
from kombu import Message, Queue

from ..capture import headers as own
from ..capture.envelope import Envelope
from ..capture.message import envelope_of
from ..capture.text import storable, storable_id
from ..exceptions import AlreadyTaken, NotRequeueable, TaskOpsError
from ..models import AuditAction, AuditEntry, DeadLetter, TaskRun
from .broker import Publisher, Unconfirmed, read_connection
from .decide import Decision
from .intents import Order
from .message import fresh_properties, renewed_expiry
from .notice import DEATHS, NOTICE
from .requeue import BATCH, requeue_each
from .sending import NOT_SENT, Outcome

FOREIGN = "message"


class _Found(NamedTuple):
    """A message of the queue. `letter` is the primary key of the one that it tells of, None for any other message."""

    message: Message
    task_id: str
    letter: int | None


def put_back(queue: str, order: Order, *, limit: int | None = None) -> Iterator[tuple[str, Outcome]]:
    """Each message that is in the queue now, by its task id, with what has become of it. Those that are refused stay.

    They go back when all have been looked at: RabbitMQ gives them their old places, and would hand them out again. If
    the process dies before, the broker takes them back.

    Raises what the broker's client raises where it can't be reached, or there is no such queue.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    with read_connection(app) as connection:
        waiting = Queue(queue, channel=connection.channel())
        messages = islice(_messages(waiting), _depth(waiting, limit))
        refused: list[Message] = []
        while batch := list(islice(messages, BATCH)):
            found = _with_letters(batch)
            outcomes = _decided(app, found, order)
            for each in found:
                outcome = outcomes[id(each.message)]
                if _is_settled(outcome):
                    each.message.ack()
                else:
                    refused.append(each.message)
                yield each.task_id, outcome
        for message in refused:
            message.requeue()


def look_into(queue: str, *, limit: int | None = None) -> list[tuple[str, int | None]]:
    """The task ids of what is in the queue and the letters that they tell of; everything goes back: in RabbitMQ to its
    place, in Redis behind what has not been looked at."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    with read_connection(app) as connection:
        waiting = Queue(queue, channel=connection.channel())
        messages = list(islice(_messages(waiting), _depth(waiting, limit)))
        found = _with_letters(messages)
        for message in messages:
            message.requeue()
    return [(each.task_id, each.letter) for each in found]


def _messages(queue: Queue) -> Iterator[Message]:
    get: Any = queue.get
    return iter(get, None)


def _depth(queue: Queue, limit: int | None) -> int:
    """What is there now: what is put back and dies again meanwhile comes after it."""
    channel: Any = queue.channel
    count = int(channel.queue_declare(queue.name, passive=True).message_count)
    return count if limit is None else min(count, limit)


def _with_letters(messages: Sequence[Message]) -> list[_Found]:
    ids = [storable_id(message.headers.get("id") or "") for message in messages]
    columns = ("task_id", "publication", "generation", "pk")
    letters = DeadLetter.objects.filter(task_id__in=set(ids)).order_by("pk").values_list(*columns)
    by_epoch: dict[tuple[str, str, int], int] = {}
    newest: dict[str, int] = {}
    for task_id, publication, generation, pk in letters:
        by_epoch[task_id, publication, generation] = newest[task_id] = pk
    return [
        _Found(message, task_id, by_epoch.get((task_id, *_epoch(message)), _noticed(message, newest.get(task_id))))
        for message, task_id in zip(messages, ids, strict=True)
    ]


def _noticed(message: Message, newest: int | None) -> int | None:
    """A notice of a letter whose message was not kept does not say which publication has died."""
    return newest if NOTICE in message.headers else None


def _epoch(message: Message) -> tuple[str, int]:
    who = own.identity(message.headers)
    return who["publication"], who["generation"]


def _decided(app: Celery, found: Sequence[_Found], order: Order) -> Mapping[int, Outcome]:
    """By identity of the message. Two that tell of one letter have one decision."""
    by_letter = dict(requeue_each(list({each.letter: None for each in found if each.letter is not None}), order))
    outcomes = {id(each.message): by_letter[each.letter] for each in found if each.letter is not None}
    with Publisher() as publisher:
        for each in found:
            if each.letter is None:
                outcomes[id(each.message)] = _sent_again(app, each, order, publisher)
    return outcomes


def _is_settled(outcome: Outcome) -> bool:
    """True where nobody has to see the message again: the letter has gone its way, or has it in hand."""
    unsure = isinstance(outcome, NotRequeueable) and outcome.code == "not_confirmed"
    return unsure or isinstance(outcome, (Decision, AlreadyTaken))


def _sent_again(app: Celery, found: _Found, order: Order, publisher: Publisher) -> Outcome:
    try:
        envelope = _foreign(app, found, order)
        publisher.publish(app, envelope)
    except Unconfirmed as error:
        return NotRequeueable("not_sent", f"the broker did not answer: it stays in the queue, and starts once: {error}")
    except TaskOpsError as error:
        return error
    except Exception as error:  # noqa: BLE001 whatever the broker's client raises
        return NotRequeueable(NOT_SENT, f"the broker did not take the message, it stays in the queue: {error!r}")
    generation = int(envelope.headers[own.GENERATION])
    _audit(found, order, envelope)
    return Decision(
        action=AuditAction.REQUEUE, dead_letter_id=0, task_id=found.task_id, generation=generation, outcome="sent"
    )


def _foreign(app: Celery, found: _Found, order: Order) -> Envelope:
    """The next generation of the message. Should it be sent twice, it starts once: the generation is the same."""
    message = found.message
    if not message.headers.get("task") or not message.headers.get("id"):
        raise NotRequeueable("no_task", "its headers name no task and id: it is no message of Celery's, and stays")
    headers = {own.NONCE: own.new_publication(), own.GENERATION: _epoch(message)[1] + 1, own.DESCRIBE: True}
    headers["expires"] = renewed_expiry(message.headers, 0)
    if order.changes.starts is not None:
        headers[own.ATTEMPTS] = order.changes.starts
    envelope = envelope_of(app, message).sent_anew(**headers)
    kept = {name: value for name, value in envelope.headers.items() if name not in (NOTICE, DEATHS)}
    envelope = replace(envelope, headers=kept, properties=fresh_properties(envelope))
    return envelope.routed_to(order.changes.queue or _origin(app, found))


def _origin(app: Celery, found: _Found) -> str:
    """The queue that it died in, as its headers say, or our rows; the project's default where neither does."""
    headers: Mapping[str, Any] = found.message.headers
    named = headers.get("x-first-death-queue") or _first_of(headers.get(DEATHS) or headers.get("x-death")).get("queue")
    run = None if named else TaskRun.objects.filter(task_id=found.task_id).only("queue").first()
    return str(named or (run and run.queue) or app.conf.task_default_queue)


def _first_of(deaths: Any) -> Mapping[str, Any]:
    """The oldest is the last one."""
    oldest: Any = deaths[-1] if isinstance(deaths, list) and deaths else None
    return oldest if isinstance(oldest, Mapping) else {}


def _audit(found: _Found, order: Order, envelope: Envelope) -> None:
    entry = AuditEntry(
        action=AuditAction.REQUEUE,
        **order.decided.by._asdict(),
        why=storable(order.decided.why, 2000),
        object_type=FOREIGN,
        object_id=found.task_id,
        task_id=found.task_id,
        outcome="sent",
        details={"queue": envelope.queue, "generation": envelope.headers[own.GENERATION]},
    )
    AuditEntry.objects.bulk_create([entry])
