"""What the page of a dead letter shows. A constant number of queries."""

from typing import Any

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..models import DeadLetter, TaskAttempt, TaskRun
from ..recovery.preflight import envelope_refusal
from ..states import LetterStatus, TaskState
from . import display, parked, payload, run_page
from .facts import Fact
from .verbs import REQUEUE, VERBS, Refusal, Verb

RERUN = {
    TaskState.PENDING: gettext_lazy("Its re-run waits for a worker."),
    TaskState.RECEIVED: gettext_lazy("A worker has received its re-run and is about to start it."),
    TaskState.STARTED: gettext_lazy("Its re-run is running."),
    TaskState.RETRY: gettext_lazy("Its re-run has failed and waits for its next retry."),
    TaskState.SUCCESS: gettext_lazy("Its re-run has succeeded."),
    TaskState.FAILURE: gettext_lazy("Its re-run has failed."),
    TaskState.REVOKED: gettext_lazy("Its re-run was revoked."),
    TaskState.REJECTED: gettext_lazy("Its re-run was rejected."),
    TaskState.IGNORED: gettext_lazy("Its re-run has ended and asked to be ignored."),
}


def context(request: HttpRequest, letter: DeadLetter, site: str, *, may_edit: bool) -> dict[str, Any]:
    run: TaskRun = letter.run
    rerun = _rerun(letter, run)
    refusal = envelope_refusal(letter)
    refused = {verb: verb.refusals([letter]).get(letter.pk) for verb in VERBS}
    possible = [verb for verb, why in refused.items() if why is None or why.is_a_matter_of_judgement]
    return {
        "letter": letter,
        "run": run,
        "badge": run_page.letter_badge(letter),
        "died": display.moment(letter.died_at),
        "now": _now(letter, rerun),
        "facts": _facts(letter, run, rerun, site),
        "death": death(letter, run),
        "verbs": [(verb, _address(verb, letter, site)) for verb in possible if verb.allows(request)],
        "editor": _editor(letter, site) if may_edit and REQUEUE in possible else "",
        "doubt": _doubt(refused[REQUEUE]),
        "history": _history(letter),
        "audit": run_page.audit_entries(
            request, Q(task_id=letter.task_id, object_type="dead_letter", object_id=str(letter.pk))
        ),
        "not_rerunnable": refusal.detail if refusal and letter.status == LetterStatus.OPEN else "",
        "parked": parked.remarks(letter),
        "notes": REQUEUE.notes([letter])[letter.pk] if REQUEUE in possible else [],
        "is_another_send": not payload.is_of(letter, run.described),
        **payload.context(request, run),
    }


def _doubt(refused: Refusal | None) -> str:
    """Why a requeue is refused unless somebody insists."""
    return refused.sentence if refused and refused.is_a_matter_of_judgement else ""


def _rerun(letter: DeadLetter, run: TaskRun) -> TaskRun | None:
    """The run that tells what became of the letter since; None where nothing has been heard of a re-run."""
    if letter.requeued_as:
        return TaskRun.objects.filter(task_id=letter.requeued_as).first()
    sent = letter.generation if letter.sent_generation is None else letter.sent_generation
    return run if run.publication == letter.publication and run.generation >= sent else None


def _now(letter: DeadLetter, rerun: TaskRun | None) -> str:
    """What has happened since the letter was requeued; "" for a letter that was not."""
    if letter.status == LetterStatus.SUPERSEDED:
        return _("Its re-run died too and has left a letter of its own.")
    if letter.status not in (LetterStatus.REQUEUED, LetterStatus.RESOLVED):
        return ""
    if rerun is not None and rerun.state in RERUN:
        return str(RERUN[TaskState(rerun.state)])
    return _("Nothing has been heard of its re-run yet.") if letter.status == LetterStatus.REQUEUED else ""


def _facts(letter: DeadLetter, run: TaskRun, rerun: TaskRun | None, site: str) -> list[Fact]:
    moved = display.link(rerun, rerun.task_id, site) if rerun and letter.requeued_as else letter.requeued_as
    queue = _("Queue") if payload.is_of(letter, run.described) else _("Queue, as it was sent last")
    facts = [
        Fact(label=_("Run"), value=_link_with_state(run, site), note=_("its state now")),
        Fact(label=_("Died"), value=display.moment(letter.died_at), note=display.exactly(letter.died_at)),
        Fact(label=_("Generation"), value=letter.generation),
        Fact(label=queue, value=run.queue),
        Fact(label=_("Decided"), value=display.moment(letter.decided_at)),
        Fact(label=_("Requeued as"), value=moved),
        Fact(label=_("Let through to Celery"), value=display.moment(letter.let_through_at)),
    ]
    return [fact for fact in facts if fact.value != ""]


def _link_with_state(run: TaskRun, site: str) -> SafeString:
    return format_html(
        "{} {}", display.link(run, _("Open the run"), site), display.badge(run.state, run.get_state_display())
    )


def death(letter: DeadLetter, run: TaskRun) -> TaskRun | TaskAttempt | None:
    """The newest delivery that ended as the letter says; None for a run that no worker has received."""
    attempts = run.attempts.filter(
        publication=letter.publication, generation=letter.generation, reason=letter.reason
    ).defer("frames")
    found: TaskAttempt | None = attempts.order_by("-nesting", "-number", "-seen").first()
    if found is None and run.reason == letter.reason and run.generation == letter.generation:
        return run
    return found


def _address(verb: Verb, letter: DeadLetter, site: str) -> str:
    address = reverse(f"admin:taskops_deadletter_{verb.name}", current_app=site)
    return f"{address}?letter={letter.pk}&back={letter.pk}"


def _editor(letter: DeadLetter, site: str) -> str:
    return reverse("admin:taskops_deadletter_edit", args=[letter.pk], current_app=site)


def _history(letter: DeadLetter) -> list[dict[str, Any]]:
    """The letter before this one and those after it, oldest first."""
    others = DeadLetter.objects.filter(Q(pk=letter.previous_id) | Q(previous=letter.pk)).defer("envelope")
    return [
        {"letter": other, "badge": run_page.letter_badge(other), "earlier": other.pk == letter.previous_id}
        for other in others.order_by("pk")[: run_page.MAX_ROWS]
    ]
