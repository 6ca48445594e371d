"""What a dead-letter queue is told: the original message, with headers that say what became of it."""

from collections import Counter
from typing import Any

from django.urls import NoReverseMatch, reverse

from ..capture.envelope import Envelope
from ..models import DeadLetter

NOTICE = "taskops_dead_letter"
DEATHS = "taskops_death"  # in the manner of RabbitMQ's x-death, which is the broker's own to write
MAX_DEATHS = 20


def notice_of(letter: DeadLetter, queue: str) -> Envelope:
    """The message for `queue`; one without a body where the original was not kept."""
    envelope = Envelope.from_bytes(letter.envelope) if letter.envelope else _bodiless(letter)
    told = {
        "task_id": letter.task_id,
        "task_name": letter.task_name,
        "reason": letter.reason,
        "exception": letter.description,
        "generation": letter.generation,
        "died_at": letter.died_at.isoformat(),
        "link": _link(letter),
    }
    return envelope.routed_to(queue, **{NOTICE: told, DEATHS: _deaths(letter, envelope)})


def _link(letter: DeadLetter) -> str:
    """The path of its page in the admin, "" where the project has none."""
    try:
        return reverse("admin:taskops_deadletter_change", args=[letter.pk])
    except NoReverseMatch:
        return ""


def _deaths(letter: DeadLetter, envelope: Envelope) -> list[dict[str, Any]]:
    """One for each reason that this publish has died of, the newest first, with how often."""
    same = DeadLetter.objects.filter(
        run=letter.run_id, publication=letter.publication, generation__lte=letter.generation
    )
    deaths = list(same.order_by("-generation").values_list("reason", "died_at"))
    count = Counter(reason for reason, _at in deaths)
    newest = dict(reversed(deaths))
    where = {"queue": envelope.queue, "exchange": envelope.exchange, "routing-keys": [envelope.routing_key]}
    return [
        {"count": number, "reason": reason, "time": newest[reason].isoformat(), **where}
        for reason, number in list(count.items())[:MAX_DEATHS]
    ]


def _bodiless(letter: DeadLetter) -> Envelope:
    return Envelope(
        body=b"null",
        content_type="application/json",
        content_encoding="utf-8",
        headers={"id": letter.task_id, "task": letter.task_name},
        properties={},
        exchange="",
        routing_key="",
        queue="",
    )
