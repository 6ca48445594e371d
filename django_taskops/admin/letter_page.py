"""What the page of a dead letter shows. A constant number of queries."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

from ..models import DeadLetter, TaskAttempt, TaskRun
from ..recovery.preflight import envelope_refusal
from ..states import LetterStatus
from . import display, run_page
from .facts import Fact
from .verbs import VERBS, Verb


def context(request: HttpRequest, letter: DeadLetter, site: str) -> dict[str, Any]:
    run: TaskRun = letter.run
    refusal = envelope_refusal(letter)
    return {
        "letter": letter,
        "run": run,
        "badge": run_page.letter_badge(letter),
        "died": display.moment(letter.died_at),
        "facts": _facts(letter, run, site),
        "death": death(letter, run),
        "verbs": [(verb, _address(verb, letter, site)) for verb in _possible(request, letter)],
        "history": _history(letter),
        "audit": run_page.audit_entries(
            request, Q(task_id=letter.task_id, object_type="dead_letter", object_id=str(letter.pk))
        ),
        "not_rerunnable": refusal.detail if refusal and letter.status == LetterStatus.OPEN else "",
        **run_page.payload(request, run),
    }


def _facts(letter: DeadLetter, run: TaskRun, site: str) -> list[Fact]:
    moved = TaskRun.objects.filter(task_id=letter.requeued_as).first() if letter.requeued_as else None
    facts = [
        Fact(label=_("Run"), value=display.link(run, run.get_state_display(), site), note=_("its state now")),
        Fact(label=_("Died"), value=display.moment(letter.died_at), note=display.exactly(letter.died_at)),
        Fact(label=_("Generation"), value=letter.generation),
        Fact(label=_("Queue"), value=run.queue),
        Fact(label=_("Decided"), value=display.moment(letter.decided_at)),
        Fact(label=_("Requeued as"), value=display.link(moved, moved.task_id, site) if moved else letter.requeued_as),
        Fact(label=_("Parked"), value=_("yes, Celery was not told of the failure") if letter.parked else ""),
    ]
    return [fact for fact in facts if fact.value != ""]


def death(letter: DeadLetter, run: TaskRun) -> TaskRun | TaskAttempt | None:
    """The newest delivery that ended as the letter says; None for a run that no worker has received."""
    attempts = run.attempts.filter(
        publication=letter.publication, generation=letter.generation, reason=letter.reason
    ).defer("frames")
    found: TaskAttempt | None = attempts.order_by("-nesting", "-number", "-seen").first()
    if found is None and run.reason == letter.reason and run.generation == letter.generation:
        return run
    return found


def _possible(request: HttpRequest, letter: DeadLetter) -> Sequence[Verb]:
    return [verb for verb in VERBS if verb.allows(request) and not verb.refusal(letter)]


def _address(verb: Verb, letter: DeadLetter, site: str) -> str:
    address = reverse(f"admin:taskops_deadletter_{verb.name}", current_app=site)
    return f"{address}?letter={letter.pk}&back={letter.pk}"


def _history(letter: DeadLetter) -> list[dict[str, Any]]:
    """The letter before this one and those after it, oldest first."""
    others = DeadLetter.objects.filter(Q(pk=letter.previous_id) | Q(previous=letter.pk)).defer("envelope")
    return [
        {"letter": other, "badge": run_page.letter_badge(other), "earlier": other.pk == letter.previous_id}
        for other in others.order_by("pk")[: run_page.MAX_ROWS]
    ]
