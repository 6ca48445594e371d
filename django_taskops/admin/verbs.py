"""What a person can decide on a dead letter, and the words for it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from ..exceptions import NotRequeueable
from ..models import AuditAction, DeadLetter
from ..recovery import preflight
from ..states import LetterStatus
from . import parked
from .forms import AttemptsForm, WhyForm

Words = str | Promise


JUDGED: Mapping[str, Words] = {
    "stale": _("it died longer ago than its task allows (stale_after)"),
    "healed": _("the same task with equal arguments has succeeded since"),
    "unregistered": _("no live worker has registered the task"),
    "bad_arguments": _("the arguments do not fit the task any more"),
    "running": _("the broker has delivered it again, and it has not ended"),
    "redelivery_pending": _("the broker is about to deliver it again"),
}
"""Refusals that a person may overrule, in words that hold for many letters."""


class Refusal(NamedTuple):
    """`sentence` is about one letter; `code` is "" where it is not of a requeue."""

    sentence: str
    code: str = ""

    @property
    def is_a_matter_of_judgement(self) -> bool:
        return self.code in preflight.FORCEABLE

    @property
    def in_general(self) -> str:
        return str(JUDGED.get(self.code, self.sentence))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """`name` is that of the action, of its address and of its permission. `status` is what a letter has to be in."""

    name: str
    status: LetterStatus
    label: Words
    title: Words
    explanation: Words
    will: Any  # plural forms, by `count`
    done: Any
    asks_why: bool
    needs_why: bool
    action: AuditAction
    form: type[WhyForm] = WhyForm
    sends: bool = False  # what fails unexpectedly may have been sent
    check: Callable[[Sequence[DeadLetter]], Mapping[int, NotRequeueable]] | None = None
    outlook: Callable[[Iterable[DeadLetter]], Mapping[int, list[str]]] | None = None  # of many, in a few queries
    remarks: Callable[[DeadLetter], list[str]] | None = None

    def allows(self, request: HttpRequest) -> bool:
        """True where the user may decide this, and may see what on."""
        return request.user.has_perms(["taskops.view_deadletter", f"taskops.{self.name}_deadletter"])

    def refusals(self, letters: Iterable[DeadLetter]) -> dict[int, Refusal]:
        """Why this can't be decided now on which of `letters`, by primary key, as far as one can tell beforehand."""
        refused: dict[int, Refusal] = {}
        possible: list[DeadLetter] = []
        for letter in letters:
            if letter.status == self.status:
                possible.append(letter)
            else:
                refused[letter.pk] = self._is_not_as_wanted(letter)
        found = self.check(possible) if self.check and possible else {}
        return refused | {pk: Refusal(refusal.detail, refusal.code) for pk, refusal in found.items()}

    def _is_not_as_wanted(self, letter: DeadLetter) -> Refusal:
        words = {"status": letter.get_status_display(), "wanted": LetterStatus(self.status).label}
        return Refusal(gettext("it is “%(status)s”, not “%(wanted)s”") % words)

    def notes(self, letters: Sequence[DeadLetter]) -> Mapping[int, list[str]]:
        """What to know beforehand of letters that are not refused, by primary key. Reads their envelopes and runs."""
        told = self.outlook(letters) if self.outlook and letters else {}
        remarks = self.remarks or (lambda _letter: [])
        return {letter.pk: [*told.get(letter.pk, ()), *remarks(letter)] for letter in letters}


REQUEUE = Verb(
    name="requeue",
    status=LetterStatus.OPEN,
    label=_("Requeue"),
    title=_("Requeue dead letters"),
    explanation=_(
        "Each task is sent again with its original arguments and with what was to follow it; under its own id, unless "
        "its line below says otherwise. What a task had done before it died is done again, unless the task takes care "
        "of that itself."
    ),
    will=ngettext_lazy("%(count)d task will be sent again.", "%(count)d tasks will be sent again.", "count"),
    done=ngettext_lazy("%(count)d dead letter was requeued.", "%(count)d dead letters were requeued.", "count"),
    asks_why=True,
    needs_why=False,
    action=AuditAction.REQUEUE,
    form=AttemptsForm,
    sends=True,
    check=preflight.review,
    outlook=preflight.notes,
    remarks=parked.before_requeue,
)

DISCARD = Verb(
    name="discard",
    status=LetterStatus.OPEN,
    label=_("Discard"),
    title=_("Discard dead letters"),
    explanation=_("Nobody will be asked about them any more. Nothing is deleted: they can be restored."),
    will=ngettext_lazy(
        "%(count)d dead letter will be discarded.", "%(count)d dead letters will be discarded.", "count"
    ),
    done=ngettext_lazy("%(count)d dead letter was discarded.", "%(count)d dead letters were discarded.", "count"),
    asks_why=True,
    needs_why=True,
    action=AuditAction.DISCARD,
    remarks=parked.before_discard,
)

RESTORE = Verb(
    name="restore",
    status=LetterStatus.DISCARDED,
    label=_("Restore"),
    title=_("Restore dead letters"),
    explanation=_("They are open again and wait for somebody to requeue or discard them."),
    will=ngettext_lazy("%(count)d dead letter will be restored.", "%(count)d dead letters will be restored.", "count"),
    done=ngettext_lazy("%(count)d dead letter was restored.", "%(count)d dead letters were restored.", "count"),
    asks_why=True,
    needs_why=False,
    action=AuditAction.RESTORE,
    remarks=parked.before_restore,
)

VERBS = (REQUEUE, DISCARD, RESTORE)
