"""Decides on many dead letters, one by one: pinned beforehand, reviewed, carried out, accounted for."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from ..exceptions import AlreadyTaken, NotRequeueable, TaskOpsError
from ..models import DeadLetter
from ..states import LetterStatus
from . import display
from .verbs import Verb

MAX_LETTERS = 100
MAX_REASON_CHARS = 300

logger = logging.getLogger("django_taskops")


def pinned(given: Iterable[str]) -> list[int]:
    """The keys of the letters that were chosen, each once; what is no key is left out."""
    return sorted({int(pk) for pk in given if pk.isascii() and pk.isdecimal() and len(pk) < 19})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    letter: DeadLetter
    badge: SafeString
    died: SafeString | str
    refusal: str


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
            reasons[_gone()] += self.missing
        return reasons.most_common()


def review(verb: Verb, letters: Iterable[DeadLetter], chosen: Sequence[int]) -> Review:
    rows = [
        Row(
            letter=letter,
            badge=display.badge(letter.status, letter.get_status_display()),
            died=display.moment(letter.died_at),
            refusal=verb.refusal(letter),
        )
        for letter in letters
    ]
    return Review(rows=rows, missing=len(chosen) - len(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    done: Sequence[DeadLetter]
    refused: Sequence[tuple[str, int]]


def carry_out(
    verb: Verb, letters: Iterable[DeadLetter], user: Any, why: str, log: Callable[[DeadLetter], object]
) -> Outcome:
    """Decides on each letter by itself; one that fails never stops the rest. `log` is told of those that succeed."""
    done: list[DeadLetter] = []
    refused: Counter[str] = Counter()
    for letter in letters:
        try:
            verb.carry_out(letter, user, why)
        except TaskOpsError as error:
            refused[_explained(error)] += 1
        except Exception as error:
            logger.exception("django-taskops: %s of dead letter %s failed", verb.name, letter.pk)
            refused[_("unexpected: %(error)s; the log has more") % {"error": _cut(repr(error))}] += 1
        else:
            log(letter)
            done.append(letter)
    return Outcome(done=done, refused=refused.most_common())


def _explained(error: TaskOpsError) -> str:
    if isinstance(error, AlreadyTaken):
        if error.status not in LetterStatus.values:
            return _gone()
        return _("already taken: it is “%(status)s” by now") % {"status": LetterStatus(error.status).label}
    return _cut(error.detail if isinstance(error, NotRequeueable) else str(error))


def _gone() -> str:
    return _("it does not exist any more")


def _cut(text: str) -> str:
    return Truncator(text).chars(MAX_REASON_CHARS)
