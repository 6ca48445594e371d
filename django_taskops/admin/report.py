"""What the desk says after a decision on many letters: what is done, what is not, and what nobody knows."""

from collections.abc import Iterator

from django.utils.translation import ngettext

from .bulk import Outcome, Verdict
from .verbs import Verb


def sentences(verb: Verb, outcome: Outcome) -> Iterator[str]:
    """The sum first, then a line for each reason. One sentence alone: all that was chosen is done."""
    refused = outcome.reasons(Verdict.REFUSED)
    unconfirmed = outcome.reasons(Verdict.UNCONFIRMED)
    yield _sum(verb, len(outcome.done), _count(refused) + outcome.untried, _count(unconfirmed))
    if count := outcome.unsettled:
        yield ngettext(
            "%(count)d of them was sent, but the database did not take the note of it.",
            "%(count)d of them were sent, but the database did not take the note of it.",
            count,
        ) % {"count": count}
    for why, count in unconfirmed:
        line = ngettext(
            "%(count)d is not confirmed, it may have been sent: %(reason)s",
            "%(count)d are not confirmed, they may have been sent: %(reason)s",
            count,
        )
        yield line % {"count": count, "reason": why}
    for why, count in refused:
        line = ngettext("%(count)d was skipped: %(reason)s", "%(count)d were skipped: %(reason)s", count)
        yield line % {"count": count, "reason": why}
    if count := outcome.untried:
        yield ngettext(
            "%(count)d was not tried, because the broker is not reachable.",
            "%(count)d were not tried, because the broker is not reachable.",
            count,
        ) % {"count": count}


def _sum(verb: Verb, done: int, refused: int, unconfirmed: int) -> str:
    parts = [verb.done % {"count": done}]
    if refused:
        parts.append(ngettext("%(count)d was not.", "%(count)d were not.", refused) % {"count": refused})
    if unconfirmed:
        text = ngettext("%(count)d is not confirmed.", "%(count)d are not confirmed.", unconfirmed)
        parts.append(text % {"count": unconfirmed})
    return " ".join(parts)


def _count(reasons: list[tuple[str, int]]) -> int:
    return sum(count for _reason, count in reasons)
