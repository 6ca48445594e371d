"""The workflow of a run, for the template of its page."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.urls import reverse

from ...models import TaskRun
from . import across, down
from .folding import fold
from .graph import link
from .picture import Picture
from .records import Record
from .rows import Found, runs_of_workflow
from .tiles import Addresses, Row, grouped, in_words, sentence, statuses, tiled


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """`counts` are sentences, each with the list it leads to, "" for none. `more` and `deeper` as in `Found`."""

    row: Row
    pictures: Sequence[Picture]
    counts: Sequence[tuple[str, str]]
    in_words: str
    number: int
    runs: str
    more: bool
    deeper: bool


def workflow_of(run: TaskRun, site: str) -> Workflow | None:
    """None for a run that stands by itself."""
    found = runs_of_workflow(run)
    if len(found.records) < 2:
        return None
    return _drawn(run, found, _addresses(found.records, site))


def _drawn(run: TaskRun, found: Found, addresses: Addresses) -> Workflow:
    row = tiled(fold(link(found.records), run.task_id), addresses)
    counts = statuses(found.records)
    return Workflow(
        row=row,
        pictures=(across.draw(row), down.draw(row)),
        counts=[(in_words(status, number), addresses.listed(status)) for status, number in counts],
        in_words=sentence(counts),
        number=len(found.records),
        runs=grouped(len(found.records)),
        more=found.more,
        deeper=found.deeper,
    )


def _addresses(records: Sequence[Record], site: str) -> Addresses:
    """A page's address is made of one that Django has made: a thousand times it would take a while."""
    before, _pk, after = reverse("admin:taskops_taskrun_change", args=[0], current_app=site).rpartition("0")
    return Addresses(
        run=lambda pk: f"{before}{pk}{after}",
        runs=reverse("admin:taskops_taskrun_changelist", current_app=site),
        of_all=_shared("root_id", records) or _shared("group_id", records),
    )


def _shared(name: str, records: Sequence[Record]) -> dict[str, str]:
    values = {getattr(record, name) for record in records}
    value = values.pop() if len(values) == 1 else ""
    return {name: value} if value else {}
