"""Why the tables may not show what happens, in words for people and codes for programs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.formats import number_format
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

BLIND_SECONDS = 60
"""Events that wait for longer make blind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blindness:
    """`count` is how many events wait in `source`, which `holder` drains."""

    code: str
    source: str = ""
    count: int = 0
    holder: str = ""

    @property
    def sentence(self) -> str:
        """For people, in the language of the moment."""
        number = number_format(self.count, force_grouping=True)
        words = {"source": self.source, "count": self.count, "number": number, "holder": self.holder}
        text: str = SENTENCES[self.code] % words
        return text


SENTENCES: Mapping[str, Any] = {
    "not_migrated": _("The database lacks tables of this version: run manage.py migrate."),
    "database": _("The tables of the recorder can't be read."),
    "unusable": _("The settings name a journal that can't be used: run manage.py check."),
    "unreachable": _("The %(source)s journal can't be reached: nobody knows what waits in it."),
    "refused": _("The %(source)s journal belongs to another database: nothing of it is applied here."),
    "nobody_drains": ngettext_lazy(
        "%(number)s event waits in the %(source)s journal, nobody drains: start a worker or run taskops_drain.",
        "%(number)s events wait in the %(source)s journal, nobody drains: start a worker or run taskops_drain.",
        "count",
    ),
    "lags": ngettext_lazy(
        "%(number)s event waits in the %(source)s journal for longer than a minute, although %(holder)s drains it.",
        "%(number)s events wait in the %(source)s journal, some for longer than a minute, although %(holder)s drains "
        "it.",
        "count",
    ),
    "dropped": _("Within the last 24 hours the journal had no room for some events and dropped them."),
}
