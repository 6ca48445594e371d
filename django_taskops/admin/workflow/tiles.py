"""The words of the picture: what each tile says, and where it leads."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlencode

from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ...states import REASON_CHOICES, TaskState
from ..display import TONES
from .folding import NEVER_RAN, Branches, Counts, Flow, Folded, Part, Step, counted, status_of
from .records import Record

NEVER_RAN_TONE = "never"
MAX_NAME = 100
COUNTED: Mapping[str, object] = {
    TaskState.PENDING: gettext_lazy("%(count)s pending"),
    TaskState.RECEIVED: gettext_lazy("%(count)s received"),
    TaskState.STARTED: gettext_lazy("%(count)s started"),
    TaskState.RETRY: gettext_lazy("%(count)s waiting for retry"),
    TaskState.SUCCESS: gettext_lazy("%(count)s succeeded"),
    TaskState.FAILURE: gettext_lazy("%(count)s failed"),
    TaskState.REVOKED: gettext_lazy("%(count)s revoked"),
    TaskState.REJECTED: gettext_lazy("%(count)s rejected"),
    TaskState.IGNORED: gettext_lazy("%(count)s ignored"),
    NEVER_RAN: gettext_lazy("%(count)s never ran"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A run, or what is only counted. `sign` is the name of a shape: nothing is told by colour alone."""

    name: str
    status: str
    note: str = ""
    tone: str = "quiet"
    sign: str = ""
    index: str = ""
    task_id: str = ""
    url: str = ""
    is_here: bool = False

    @property
    def line(self) -> str:
        """The second one."""
        said = (_("This run"), self.status) if self.is_here else (self.status, self.note)
        return " · ".join(part for part in said if part)

    @property
    def title(self) -> str:
        """All of it, for whom the picture is too small or invisible."""
        said = (self.name, self.index, self.status, self.note, self.task_id)
        return "\n".join(part for part in said if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Side by side. Without a label: what a run has started, which is no group. `apart` where nothing is before it."""

    label: str
    lanes: tuple["Row", ...]
    apart: bool = False


Row: TypeAlias = tuple[Tile | Frame, ...]
"""One after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where tiles lead to. `of_all` is the filter that all runs of the workflow pass, empty where there is none."""

    run: Callable[[int], str]
    runs: str
    of_all: Mapping[str, str]

    def listed(self, status: str, group_id: str = "") -> str:
        """The list of the runs with that status, of a group or of the workflow; "" where no filter finds just them."""
        of = {"group_id": group_id} if group_id else self.of_all
        if not of:
            return ""
        chosen = {"reason": status} if status == NEVER_RAN else {"state": status}
        return f"{self.runs}?{urlencode({**of, **chosen})}"


def tiled(flow: Flow, addresses: Addresses) -> Row:
    return tuple(_tiled(part, addresses) for part in flow)


def _tiled(part: Part, addresses: Addresses) -> Tile | Frame:
    if isinstance(part, Step):
        return _step(part, addresses)
    if isinstance(part, Folded):
        return _folded(part, addresses)
    lanes = tuple(tiled(lane, addresses) for lane in part.lanes)
    return Frame(label=_label(part), lanes=lanes, apart=part.is_apart)


def _step(step: Step, addresses: Addresses) -> Tile:
    record = step.record
    return Tile(
        name=record.task_name or "?",
        status=status_label(record),
        note="" if record.never_ran else _why(record),
        tone=_tone(status_of(record)),
        sign=status_of(record),
        index="" if record.group_index is None else f"#{record.group_index}",
        task_id=record.task_id,
        url=addresses.run(record.pk),
        is_here=step.is_here,
    )


def _why(record: Record) -> str:
    return record.exception_type.rpartition(".")[2] or str(_REASONS.get(record.reason, ""))


_REASONS = dict(REASON_CHOICES)


def status_label(record: Record) -> str:
    return _("Never ran") if record.never_ran else _label_of_state(record.state)


def _label_of_state(state: str) -> str:
    return str(TaskState(state).label) if state in TaskState.values else state


def _tone(status: str) -> str:
    return NEVER_RAN_TONE if status == NEVER_RAN else TONES.get(status, "quiet")


def _folded(folded: Folded, addresses: Addresses) -> Tile:
    worst, number = folded.counts[0]
    if not folded.in_sequence:
        return Tile(
            name=in_words(worst, number),
            status=_("not shown one by one"),
            tone=_tone(worst),
            sign=worst,
            url=addresses.listed(worst, folded.group_id),
        )
    number = sum(number for _status, number in folded.counts)
    return Tile(
        name=ngettext("%(count)s more run", "%(count)s more runs", number) % {"count": grouped(number)},
        status=sentence(folded.counts),
        tone=_tone(worst),
        sign=worst,
    )


def _label(branches: Branches) -> str:
    if not branches.is_group:
        return ""
    if branches.is_chord:
        text = ngettext("Chord of %(count)s member", "Chord of %(count)s members", branches.size)
    else:
        text = ngettext("Group of %(count)s member", "Group of %(count)s members", branches.size)
    return text % {"count": grouped(branches.size)}


def in_words(status: str, number: int) -> str:
    template = str(COUNTED.get(status, f"%(count)s {status}"))
    return template % {"count": grouped(number)}


def sentence(counts: Counts) -> str:
    return ", ".join(in_words(status, number) for status, number in counts)


def grouped(number: int) -> str:
    return str(number_format(number, use_l10n=True, force_grouping=True))


def statuses(records: Iterable[Record]) -> Counts:
    return counted(Counter(map(status_of, records)))
