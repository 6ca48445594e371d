"""What the page of the recorder shows of each journal and of each drain. Nothing of what tasks were called with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ...events import Beat
from ...journal.base import Backlog, Entry
from ...journal.codec import UnreadableEvent, decode
from ...models import Recorder
from ...projection.blindness import BLIND_SECONDS
from ...projection.status import SourceStatus, Status
from .. import display
from .words import KINDS, TONES

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

SILENT_AFTER = timedelta(seconds=BLIND_SECONDS)
NAME_CHARS = 120

JOURNALS: Mapping[str, "StrOrPromise"] = {
    "redis": gettext_lazy("Redis"),
    "spool": gettext_lazy("Files of this host"),
    "direct": gettext_lazy("None: each event is written to the database at once"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """`filled` is a share in percent, None for a card without a bar."""

    label: str
    value: str | SafeString
    note: str | SafeString = ""
    tone: str = ""
    filled: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """`name` and `identifier` are the task's, or the worker's; both None for an entry that this release can't read."""

    name: str | None
    identifier: str | None
    badge: SafeString | str
    at: SafeString | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    label: "StrOrPromise"
    error: str
    refused: str
    cards: Sequence[Card]
    newest: Sequence[Waiting]
    empty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """What the drain of one journal last said of itself."""

    row: Recorder
    badge: SafeString
    seen: SafeString | str
    lag: str
    spool: str


def context(status: Status) -> dict[str, Any]:
    return {
        "recorder_status": status,
        "badge": display.tone("bad", _("blind")) if status.blind else display.tone("good", _("seeing")),
        "journal": JOURNALS.get(status.journal, status.journal),
        "quarantined": status.quarantined,
        "panels": [_panel(source) for source in status.sources],
        "drains": [_drain(row) for row in status.recorders],
    }


def _panel(source: SourceStatus) -> Panel:
    backlog = source.backlog
    return Panel(
        label=JOURNALS.get(source.name, source.name),
        error=source.error,
        refused=backlog.refused if backlog else "",
        cards=list(_cards(source, backlog)) if backlog else (),
        newest=[_waiting(entry) for entry in backlog.newest] if backlog else (),
        empty=backlog is not None and not backlog.entries,
    )


def _cards(source: SourceStatus, backlog: Backlog) -> Iterator[Card]:
    lag = source.lag_seconds
    yield Card(
        label=_("Lag"),
        value=_("none") if lag is None else display.duration(timedelta(seconds=lag)),
        note=_("nothing waits") if lag is None else _("how long the oldest event waits"),
        tone="bad" if lag is not None and lag > BLIND_SECONDS else "",
    )
    yield _fill(backlog)
    neglected = backlog.entries and not backlog.holder and not backlog.refused
    yield Card(
        label=_("Drained by"),
        value=backlog.holder or _("nobody"),
        note=_("start a worker or run taskops_drain") if neglected else "",
        tone="warning" if neglected else "",
    )
    dropped = sum(backlog.dropped.values())
    yield Card(
        label=_("Dropped"),
        value=_number(dropped),
        note=", ".join(_dropped(backlog.dropped)) or _("there was room for every event"),
        tone="warning" if dropped else "",
    )


def _fill(backlog: Backlog) -> Card:
    share = min(100, round(100 * backlog.size / backlog.limit)) if backlog.limit else None
    sizes = {"size": filesizeformat(backlog.size), "limit": filesizeformat(backlog.limit)}
    return Card(
        label=_("Events that wait"),
        value=_number(backlog.entries),
        note=_("%(size)s of %(limit)s") % sizes if backlog.limit else sizes["size"],
        tone="warning" if share is not None and share >= 80 else "",
        filled=share,
    )


def _dropped(dropped: Mapping[str, int]) -> Iterator[str]:
    """The most frequent first."""
    for kind, count in sorted(dropped.items(), key=lambda item: -item[1]):
        yield f"{KINDS.get(kind, kind)} {_number(count)}"


def _number(count: int) -> str:
    return number_format(count, force_grouping=True)


def _waiting(entry: Entry) -> Waiting:
    try:
        record = decode(entry.data)
        at = display.moment(record.at)
    except (UnreadableEvent, OverflowError):  # an instant may be too old for the time zone
        return Waiting(name=None, identifier=None, badge=display.tone("bad", _("unreadable")), at="")
    badge = display.tone(TONES.get(record.kind, "bad"), KINDS[record.kind])
    name, identifier = (
        (record.worker, record.boot_id) if isinstance(record, Beat) else (record.task_name, record.task_id)
    )
    return Waiting(name=name, identifier=identifier, badge=badge, at=at)


def _drain(row: Recorder) -> Drain:
    silent = timezone.now() - row.seen_at > SILENT_AFTER
    return Drain(
        row=row,
        badge=display.tone("quiet", _("silent")) if silent else display.tone("good", _("at work")),
        seen=display.moment(row.seen_at),
        lag="" if row.lag_seconds is None else display.duration(timedelta(seconds=row.lag_seconds)),
        spool=_spool(row),
    )


def _spool(row: Recorder) -> str:
    if not row.spool_files:
        return ""
    files = ngettext("%(count)d file, %(size)s", "%(count)d files, %(size)s", row.spool_files)
    return files % {"count": row.spool_files, "size": filesizeformat(row.spool_bytes)}
