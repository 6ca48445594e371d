"""What the page of the bulk runs shows. A constant number of queries."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.formats import number_format
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..models import AuditAction, OutboxStatus
from ..recovery import bulk, workers
from ..recovery.bulk import BulkRun, Reason
from ..states import LetterStatus
from . import display
from .bulk import gone
from .verbs import JUDGED, Words

SHOWN = 20

REASONS: Mapping[str, Words] = {
    **JUDGED,
    "payload_too_large": gettext_lazy("not re-runnable: its payload was too large to be kept"),
    "envelope_missing": gettext_lazy("not re-runnable: there is no message of it"),
    "more": gettext_lazy("for other reasons"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    run: BulkRun
    label: str
    badge: SafeString
    when: SafeString | str
    finished: SafeString | str
    who: str
    why: str
    options: Sequence[str]
    percent: int
    figures: Sequence[tuple[str, str]]
    reasons: Sequence[tuple[str, str]]
    error: str
    decisions: str
    stop: str


def context(site: str, may_stop: Collection[AuditAction]) -> dict[str, Any]:
    runs = bulk.newest(SHOWN)
    under_way = any(run.finished_at is None for run in runs)
    return {
        "lines": [_line(run, site, may_stop) for run in runs],
        "under_way": under_way,
        "nobody": under_way and nobody_works(),
        "full": len(runs) == SHOWN,
    }


def nobody_works() -> bool:
    return not any(worker.alive for worker in workers.seen())


def _line(run: BulkRun, site: str, may_stop: Collection[AuditAction]) -> Line:
    person = run.order.decided.by
    ended = run.finished_at is not None
    stop = reverse("admin:taskops_deadletter_stop", args=[run.pk], current_app=site)
    return Line(
        run=run,
        label=str(run.action.label),
        badge=_badge(run),
        when=display.moment(run.created_at),
        finished=display.moment(run.finished_at),
        who=person.user_name or _("the app itself"),
        why=run.order.decided.why,
        options=_options(run),
        percent=round(100 * (run.total - run.to_go) / run.total) if run.total else 100,
        figures=_figures(run),
        reasons=[(_number(reason.count), _words(reason)) for reason in run.refused],
        error=_error(run),
        decisions=_decisions(run, site),
        stop=stop if not ended and run.action in may_stop else "",
    )


def _badge(run: BulkRun) -> SafeString:
    if run.status == OutboxStatus.DONE:
        return display.tone("good", _("finished"))
    if run.status == OutboxStatus.FAILED:
        return display.tone("warning", _("ended early"))
    return display.tone("running", _("at work")) if run.at_work else display.tone("waiting", _("waits for a worker"))


def _figures(run: BulkRun) -> list[tuple[str, str]]:
    refused = sum(reason.count for reason in run.refused)
    figures = [
        (_("done"), run.done),
        (_("refused"), refused),
        (_("not confirmed"), run.unconfirmed),
        (_("not tried") if run.finished_at else _("to go"), run.to_go),
    ]
    return [(label, _number(count)) for label, count in figures]


def _options(run: BulkRun) -> list[str]:
    if run.action != AuditAction.REQUEUE:
        return []
    starts = run.order.changes.starts
    attempts = _("Attempts: at most %(count)s") % {"count": _number(starts)} if starts else ""
    return list(filter(None, (attempts, _("by force") if run.order.force else "")))


def _words(reason: Reason) -> str:
    if reason.code.startswith("taken:") and reason.code[6:] in LetterStatus.values:
        return _("already taken: it is “%(status)s” by now") % {"status": LetterStatus(reason.code[6:]).label}
    if reason.code == "taken:gone":
        return gone()
    return str(REASONS.get(reason.code, reason.sentence))


def _error(run: BulkRun) -> str:
    if run.error.startswith(f"{bulk.STOPPED}: "):
        return _("Stopped by %(name)s.") % {"name": run.error.removeprefix(f"{bulk.STOPPED}: ")}
    if run.error and run.finished_at is None:
        return _("The broker can't be reached. It is tried again, later each time.")
    return _("The broker could not be reached for too long.") if run.error else ""


def _decisions(run: BulkRun, site: str) -> str:
    """Where its audit entries are among."""
    asked = {"action": run.action.value, "q": run.order.decided.by.user_name}
    return f"{reverse('admin:taskops_auditentry_changelist', current_app=site)}?{urlencode(asked)}"


def _number(count: int) -> str:
    return str(number_format(count, force_grouping=True))
