"""Decides on dead letters that a person has chosen: reviewed beforehand, carried out, accounted for."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from ..exceptions import AlreadyTaken, NotRequeueable, TaskOpsError
from ..models import DeadLetter
from ..recovery import many
from ..recovery.intents import Order
from ..states import LetterStatus
from . import display, payload
from .verbs import Refusal, Verb

MAX_LETTERS = 100
"""More than that are for a worker."""

MAX_REASON_CHARS = 300
MAX_DESCRIPTION_CHARS = 200

logger = logging.getLogger("django_taskops")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    letter: DeadLetter
    badge: SafeString
    died: SafeString | str
    description: SafeString | str
    call: SafeString | str
    refused: Refusal | None
    notes: Sequence[str]

    @property
    def refusal(self) -> str:
        return self.refused.sentence if self.refused else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What a decision would do, before it is taken."""

    rows: Sequence[Row]
    missing: int

    @property
    def selected(self) -> int:
        return len(self.rows) + self.missing

    @property
    def ready(self) -> int:
        return sum(row.refused is None for row in self.rows)

    @property
    def skipped(self) -> list[tuple[str, int]]:
        """Reasons that nobody can overrule and how many letters each of them keeps back, the most frequent first."""
        refused = (row.refused for row in self.rows if row.refused)
        reasons = Counter(refusal.sentence for refusal in refused if not refusal.is_a_matter_of_judgement)
        if self.missing:
            reasons[gone()] += self.missing
        return reasons.most_common()

    @property
    def forceable(self) -> list[int]:
        """The letters that are kept back for reasons that a person may overrule."""
        return [row.letter.pk for row in self.rows if row.refused and row.refused.is_a_matter_of_judgement]

    @property
    def judged(self) -> list[tuple[str, int]]:
        """The reasons of these, the most frequent first."""
        refused = (row.refused for row in self.rows if row.refused)
        return Counter(refusal.in_general for refusal in refused if refusal.is_a_matter_of_judgement).most_common()


def review(verb: Verb, letters: Iterable[DeadLetter], chosen: Sequence[int], *, with_calls: bool) -> Review:
    """`with_calls` where the letters come with them (`payload.with_calls_of_runs`)."""
    letters = list(letters)
    refusals = verb.refusals(letters)
    notes = verb.notes([letter for letter in letters if _may_be_decided(refusals.get(letter.pk))])
    rows = [
        _row(letter, payload.in_short(letter) if with_calls else "", refusals.get(letter.pk), notes.get(letter.pk, ()))
        for letter in letters
    ]
    return Review(rows=rows, missing=len(chosen) - len(rows))


def _may_be_decided(refused: Refusal | None) -> bool:
    return refused is None or refused.is_a_matter_of_judgement


def _row(letter: DeadLetter, call: SafeString | str, refused: Refusal | None, notes: Sequence[str]) -> Row:
    return Row(
        letter=letter,
        badge=display.badge(letter.status, letter.get_status_display()),
        died=display.moment(letter.died_at),
        description=display.shortened(letter.description if letter.exception_type else "", MAX_DESCRIPTION_CHARS),
        call=call,
        refused=refused,
        notes=notes,
    )


class Verdict(Enum):
    DONE = auto()
    UNCONFIRMED = auto()
    """It may have been sent."""
    REFUSED = auto()
    UNTRIED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    letter: int
    verdict: Verdict
    why: str = ""
    unsettled: bool = False  # sent, and the database has not been told


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    results: Sequence[Result]

    @property
    def done(self) -> list[int]:
        return [result.letter for result in self.results if result.verdict is Verdict.DONE]

    @property
    def untried(self) -> int:
        return sum(result.verdict is Verdict.UNTRIED for result in self.results)

    @property
    def unsettled(self) -> int:
        return sum(result.unsettled for result in self.results)

    def reasons(self, verdict: Verdict) -> list[tuple[str, int]]:
        """Why letters met with that verdict and how many, the most frequent first."""
        return Counter(result.why for result in self.results if result.verdict is verdict).most_common()


def carry_out(
    verb: Verb, orders: Iterable[tuple[Sequence[int], Order]], missing: Iterable[int], log: Callable[[int], object]
) -> Outcome:
    """Decides on the letters of each order; `missing` are not there for this person. `log` is told of those that
    succeed."""
    results = [Result(letter=pk, verdict=Verdict.REFUSED, why=gone()) for pk in missing]
    for pk, outcome in _outcomes(verb, orders):
        results.append(_result(verb, pk, outcome))
        if results[-1].verdict is Verdict.DONE:
            _log(log, pk)
    return Outcome(results=results)


def _outcomes(verb: Verb, orders: Iterable[tuple[Sequence[int], Order]]) -> Iterator[tuple[int, many.Outcome]]:
    for letters, order in orders:
        yield from many.decide_each(verb.action, letters, order)


def _result(verb: Verb, pk: int, outcome: many.Outcome) -> Result:
    if not isinstance(outcome, Exception):
        return Result(letter=pk, verdict=Verdict.DONE, unsettled=outcome.outcome == "sent, not confirmed")
    if isinstance(outcome, TaskOpsError):
        code = outcome.code if isinstance(outcome, NotRequeueable) else ""
        return Result(letter=pk, verdict=_VERDICTS.get(code, Verdict.REFUSED), why=_explained(outcome))
    unexpected = _("unexpected: %(error)s; the log has more") % {"error": _cut(repr(outcome))}
    return Result(letter=pk, verdict=Verdict.UNCONFIRMED if verb.sends else Verdict.REFUSED, why=unexpected)


_VERDICTS: Mapping[str, Verdict] = {"not_confirmed": Verdict.UNCONFIRMED, "not_tried": Verdict.UNTRIED}


def _log(log: Callable[[int], object], pk: int) -> None:
    """What is done is done, whether or not Django's own log of it can be written: the audit entry has it."""
    try:
        log(pk)
    except Exception:
        logger.exception("django-taskops: the admin's log entry for dead letter %s failed", pk)


def _explained(error: TaskOpsError) -> str:
    if isinstance(error, AlreadyTaken):
        if error.status not in LetterStatus.values:
            return gone()
        return _("already taken: it is “%(status)s” by now") % {"status": LetterStatus(error.status).label}
    return _cut(error.detail if isinstance(error, NotRequeueable) else str(error))


def gone() -> str:
    return _("it does not exist any more")


def _cut(text: str) -> str:
    return Truncator(text).chars(MAX_REASON_CHARS)
