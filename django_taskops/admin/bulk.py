"""Decides on many dead letters, one by one: pinned beforehand, reviewed, carried out, accounted for."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from ..exceptions import AlreadyTaken, NotRequeueable, TaskOpsError
from ..models import DeadLetter
from ..states import LetterStatus
from . import display, payload
from .verbs import Verb

MAX_LETTERS = 100
MAX_REASON_CHARS = 300
MAX_DESCRIPTION_CHARS = 200

logger = logging.getLogger("django_taskops")


def pinned(given: Iterable[str]) -> list[int]:
    """The keys of the letters that were chosen, each once; what is no key is left out."""
    return sorted({int(pk) for pk in given if pk.isascii() and pk.isdecimal() and len(pk) < 19})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    letter: DeadLetter
    badge: SafeString
    died: SafeString | str
    description: SafeString | str
    call: SafeString | str
    refusal: str
    notes: Sequence[str]


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
        return sum(not row.refusal for row in self.rows)

    @property
    def skipped(self) -> list[tuple[str, int]]:
        """Reasons and how many letters each of them keeps back, the most frequent first."""
        reasons = Counter(row.refusal for row in self.rows if row.refusal)
        if self.missing:
            reasons[gone()] += self.missing
        return reasons.most_common()


def review(verb: Verb, letters: Iterable[DeadLetter], chosen: Sequence[int], *, with_calls: bool) -> Review:
    """`with_calls` where the letters come with them (`payload.with_calls_of_runs`)."""
    letters = list(letters)
    refusals = verb.refusals(letters)
    rows = [
        _row(verb, letter, payload.in_short(letter) if with_calls else "", refusals.get(letter.pk, ""))
        for letter in letters
    ]
    return Review(rows=rows, missing=len(chosen) - len(rows))


def _row(verb: Verb, letter: DeadLetter, call: SafeString | str, refusal: str) -> Row:
    return Row(
        letter=letter,
        badge=display.badge(letter.status, letter.get_status_display()),
        died=display.moment(letter.died_at),
        description=display.shortened(letter.description if letter.exception_type else "", MAX_DESCRIPTION_CHARS),
        call=call,
        refusal=refusal,
        notes=[] if refusal else verb.notes(letter),
    )


class Verdict(Enum):
    DONE = auto()
    UNCONFIRMED = auto()
    """It may have been sent."""
    REFUSED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    letter: DeadLetter
    verdict: Verdict
    why: str = ""
    unsettled: bool = False  # sent, and the database has not been told
    broker_down: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    results: Sequence[Result]
    untried: int

    @property
    def done(self) -> list[DeadLetter]:
        return [result.letter for result in self.results if result.verdict is Verdict.DONE]

    @property
    def unsettled(self) -> int:
        return sum(result.unsettled for result in self.results)

    def reasons(self, verdict: Verdict) -> list[tuple[str, int]]:
        """Why letters met with that verdict and how many, the most frequent first."""
        return Counter(result.why for result in self.results if result.verdict is verdict).most_common()


def carry_out(
    verb: Verb, letters: Iterable[DeadLetter], user: Any, why: str, log: Callable[[DeadLetter], object]
) -> Outcome:
    """Decides on each letter by itself; one that fails never stops the rest, unless it is that the broker is down:
    each of the others would wait for the same. `log` is told of those that succeed."""
    waiting = list(letters)
    results: list[Result] = []
    for letter in waiting:
        results.append(_decide(verb, letter, user, why))
        if results[-1].verdict is Verdict.DONE:
            _log(log, letter)
        if results[-1].broker_down:
            break
    return Outcome(results=results, untried=len(waiting) - len(results))


def _decide(verb: Verb, letter: DeadLetter, user: Any, why: str) -> Result:
    try:
        decision = verb.carry_out(letter, user, why)
    except TaskOpsError as error:
        code = error.code if isinstance(error, NotRequeueable) else ""
        verdict = Verdict.UNCONFIRMED if code == "not_confirmed" else Verdict.REFUSED
        return Result(letter=letter, verdict=verdict, why=_explained(error), broker_down=code == "not_sent")
    except Exception as error:
        logger.exception("django-taskops: %s of dead letter %s failed", verb.name, letter.pk)
        unexpected = _("unexpected: %(error)s; the log has more") % {"error": _cut(repr(error))}
        return Result(letter=letter, verdict=Verdict.UNCONFIRMED if verb.sends else Verdict.REFUSED, why=unexpected)
    return Result(letter=letter, verdict=Verdict.DONE, unsettled=decision.outcome == "sent, not confirmed")


def _log(log: Callable[[DeadLetter], object], letter: DeadLetter) -> None:
    """What is done is done, whether or not Django's own log of it can be written: the audit entry has it."""
    try:
        log(letter)
    except Exception:
        logger.exception("django-taskops: the admin's log entry for dead letter %s failed", letter.pk)


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
