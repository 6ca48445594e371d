"""How values look: badges, instants, durations, code. Markup only by `format_html`: stored text is anybody's."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pprint import pformat
from typing import Any

from django.db.models import Model
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.timesince import timesince, timeuntil
from django.utils.translation import gettext as _

from ..states import LetterStatus, TaskState

LINE = 88

TONES: Mapping[str, str] = {
    TaskState.PENDING: "waiting",
    TaskState.RECEIVED: "waiting",
    TaskState.STARTED: "running",
    TaskState.RETRY: "warning",
    TaskState.SUCCESS: "good",
    TaskState.FAILURE: "bad",
    TaskState.REJECTED: "bad",
    LetterStatus.OPEN: "bad",
    LetterStatus.REQUEUED: "running",
    LetterStatus.RESOLVED: "good",
}
"""What is not listed is quiet: over, and nobody has to act."""


def badge(value: str, label: object) -> SafeString:
    """`label` in the colour of the state or status `value`."""
    return tone(TONES.get(value, "quiet"), label)


def tone(name: str, label: object) -> SafeString:
    """`label` in the colour `name`."""
    return format_html('<span class="taskops-badge taskops-badge--{}">{}</span>', name, label)


def moment(instant: datetime | None) -> SafeString | str:
    """How long ago or ahead, the instant itself as title; "" for None."""
    if instant is None:
        return ""
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', instant.isoformat(), exactly(instant), _relative(instant)
    )


def exactly(instant: datetime) -> str:
    local = timezone.localtime(instant) if timezone.is_aware(instant) else instant
    return f"{local:%Y-%m-%d %H:%M:%S %Z}".strip()


def _relative(instant: datetime) -> str:
    now = timezone.now()
    if abs(now - instant) < timedelta(minutes=1):
        return _("just now")
    if instant > now:
        return _("in %(time)s") % {"time": timeuntil(instant, now, depth=1)}
    return _("%(time)s ago") % {"time": timesince(instant, now, depth=1)}


def between(start: datetime | None, end: datetime | None) -> str:
    """The time from `start` to `end`, "" where one is not known or the clocks of two hosts contradict each other."""
    if start is None or end is None or end < start:
        return ""
    return duration(end - start)


def duration(span: timedelta) -> str:
    seconds = span.total_seconds()
    if seconds < 1:
        return _("%(count)s ms") % {"count": round(seconds * 1000)}
    if seconds < 60:
        return _("%(count)s s") % {"count": f"{seconds:.1f}"}
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return _("%(minutes)s min %(seconds)s s") % {"minutes": minutes, "seconds": seconds}
    hours, minutes = divmod(minutes, 60)
    return _("%(hours)s h %(minutes)s min") % {"hours": f"{hours:,}", "minutes": minutes}


def shortened(text: str, limit: int) -> SafeString | str:
    """`text`, or its start with the whole as title."""
    if len(text) <= limit:
        return text
    return format_html('<span title="{}">{}</span>', text, Truncator(text).chars(limit))


def name_and_id(row: Any, call: SafeString | str = "") -> SafeString:
    """The task's name, which may be broken where it has dots; its call, where that is given, and its id below."""
    name = row.task_name or "?"
    parts = re.split(r"(?<=[._])", Truncator(name).chars(100))
    return format_html(
        '<span class="taskops-name" title="{}">{}</span> {}<span class="taskops-id">{}</span>',
        name,
        format_html_join("", "{}<wbr>", ((part,) for part in parts)),
        format_html('<span class="taskops-call">{}</span> ', call) if call else "",
        shortened(row.task_id, 40),
    )


def strong(text: object) -> SafeString:
    return format_html("<strong>{}</strong>", text)


def lines(*parts: object) -> SafeString:
    """What is not empty, each on a line of its own."""
    return format_html_join("", '<span class="taskops-line">{}</span>', ((part,) for part in parts if part))


def link(row: Model, text: object, site: str) -> SafeString:
    """A link to the admin page of `row` on the admin site called `site`."""
    return format_html('<a href="{}">{}</a>', page_url(row, site), text)


def page_url(row: Model, site: str) -> str:
    return reverse(f"admin:taskops_{type(row).__name__.lower()}_change", args=[row.pk], current_app=site)


def call_as_code(task_name: str, args: object, kwargs: object) -> str:
    """The call as it stands in Python, of the arguments as they may be shown."""
    shown = [code(value) for value in args] if isinstance(args, list) else ["…"] if args is None else [f"*{code(args)}"]
    if isinstance(kwargs, Mapping):
        shown += [_keyword(name, value) for name, value in kwargs.items()]
    line = f"{task_name or '?'}({', '.join(shown)})"
    if len(line) <= LINE and "\n" not in line:
        return line
    return f"{task_name or '?'}(\n{''.join(_indented(argument) for argument in shown)})"


def _keyword(name: str, value: object) -> str:
    return f"{name}={code(value)}" if name.isidentifier() else f"**{{{name!r}: {code(value)}}}"


def _indented(argument: str) -> str:
    return "    " + argument.replace("\n", "\n    ") + ",\n"


def code(value: Any) -> str:
    return pformat(value, width=LINE, sort_dicts=False)
