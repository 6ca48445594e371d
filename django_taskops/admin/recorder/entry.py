"""What the page of a quarantined entry shows: why it lies there, and its bytes for those who may see payloads."""

from typing import Any

from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from ...events import Beat
from ...journal.codec import UnreadableEvent, decode
from ...models import QuarantinedEntry, TaskRun
from .. import display, payload
from ..facts import Fact
from .words import KINDS

MAX_BYTES = 10 * 1024
HEX_LINE = 16
MAX_KIND_CHARS = 80
TEXT_CONTROLS = frozenset("\t\n\r")


def context(request: HttpRequest, row: QuarantinedEntry, site: str) -> dict[str, Any]:
    data = bytes(row.data)
    may_view = payload.may_view(request)
    return {
        "entry": row,
        "error": row.error if may_view else kind_of_error(row),
        "facts": [fact for fact in _facts(request, row, data, site) if fact.value],
        "may_view_payload": may_view,
        "shown": as_text(data[:MAX_BYTES]) if may_view else "",
        "cut": filesizeformat(MAX_BYTES) if len(data) > MAX_BYTES else "",
    }


def kind_of_error(row: QuarantinedEntry) -> SafeString | str:
    """What stands before the colon: what follows may quote the entry."""
    return display.shortened(row.error.partition(":")[0].strip()[:MAX_KIND_CHARS], MAX_KIND_CHARS)


def _facts(request: HttpRequest, row: QuarantinedEntry, data: bytes, site: str) -> list[Fact]:
    name, kind = _read(data)
    return [
        Fact(label=_("Journal"), value=row.source),
        Fact(label=_("Entry"), value=row.key),
        Fact(
            label=_("Quarantined"), value=display.moment(row.quarantined_at), note=display.exactly(row.quarantined_at)
        ),
        Fact(label=_("Size"), value=filesizeformat(len(data))),
        Fact(label=_("Task"), value=name),
        Fact(label=_("Event"), value=kind),
        Fact(label=_("Run"), value=_run(request, row, site)),
    ]


def _read(data: bytes) -> tuple[str, str]:
    """The task's name and the kind of the event; "" for both where it is no event of this release."""
    try:
        event = decode(data)
    except UnreadableEvent:
        return "", ""
    name = event.worker if isinstance(event, Beat) else event.task_name
    return name, str(KINDS[event.kind])


def _run(request: HttpRequest, row: QuarantinedEntry, site: str) -> SafeString | str:
    if not row.task_id or not request.user.has_perm("taskops.view_taskrun"):
        return ""
    run = TaskRun.objects.filter(task_id=row.task_id).only("pk", "task_name").first()
    return display.link(run, _("Open the run"), site) if run else ""


def as_text(data: bytes) -> str:
    """UTF-8 as it is, but for a character that was cut in two at the end; anything else in hexadecimal."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3:
            return _hexadecimal(data)
        text = data[: error.start].decode()
    plain = all(character.isprintable() or character in TEXT_CONTROLS for character in text)
    return text if plain else _hexadecimal(data)


def _hexadecimal(data: bytes) -> str:
    return "\n".join(_line(data, start) for start in range(0, len(data), HEX_LINE))


def _line(data: bytes, start: int) -> str:
    part = data[start : start + HEX_LINE]
    readable = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
    return f"{start:06x}  {part.hex(' '):<47}  {readable}"
