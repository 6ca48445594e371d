"""What of a workflow is shown, and what is only counted. Pure.

Side by side, a few members are shown each; of many, those that failed, up to a number, the one that holds the present
run, and of the rest how many are in which state. A long chain is shown by its ends and by what failed in it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ...states import QuietReason, TaskState
from .records import Node, Record

NEVER_RAN = QuietReason.UPSTREAM_FAILED.value
SEVERITY: Mapping[str, int] = {
    status: place
    for place, status in enumerate(
        (
            TaskState.SUCCESS.value,
            TaskState.IGNORED.value,
            NEVER_RAN,
            TaskState.PENDING.value,
            TaskState.RECEIVED.value,
            TaskState.RETRY.value,
            TaskState.STARTED.value,
            TaskState.REVOKED.value,
            TaskState.REJECTED.value,
            TaskState.FAILURE.value,
        )
    )
}
"""Statuses: the states, and apart from the other failures, what never ran. What a branch shows is its worst."""
TROUBLE = frozenset({TaskState.FAILURE.value, TaskState.REJECTED.value, TaskState.REVOKED.value})

Counts: TypeAlias = tuple[tuple[str, int], ...]
"""Statuses and how many have them, the worst first."""
MAX_TILES = 100


def status_of(record: Record) -> str:
    return NEVER_RAN if record.never_ran else record.state


def counted(statuses: Mapping[str, int]) -> Counts:
    known = {status: number for status, number in statuses.items() if number}
    return tuple(sorted(known.items(), key=lambda item: -SEVERITY.get(item[0], 0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    record: Record
    is_here: bool = False  # the run whose page it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What is only counted. `group_id` where all of them are members of that group, each a single run."""

    counts: Counts
    group_id: str = ""
    in_sequence: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """Side by side. A chord where it is known what follows the group; neither, where a run started several others."""

    lanes: tuple["Flow", ...]
    size: int = 0
    is_group: bool = False
    is_chord: bool = False
    is_apart: bool = False  # nothing is known to stand before them, and they are no group
    group_id: str = ""


Part: TypeAlias = Step | Folded | Branches
Flow: TypeAlias = tuple[Part, ...]
"""One after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How much is shown: branches side by side, failed ones by name where there are more, steps in a row, levels."""

    lanes: int
    named: int
    steps: int
    depth: int


MEASURES = (
    Measure(lanes=12, named=5, steps=12, depth=8),
    Measure(lanes=6, named=3, steps=10, depth=6),
    Measure(lanes=3, named=2, steps=8, depth=4),
    Measure(lanes=2, named=1, steps=6, depth=2),
)


def fold(roots: Sequence[Node], here: str) -> Flow:
    """As much of it as fits into about MAX_TILES tiles. `here` is the task id of the present run."""
    known = _survey(roots, here)
    start = roots[0] if len(roots) == 1 else Node(after=list(roots))
    for measure in MEASURES:
        flow = _Folding(known, here, measure, start).flow(start, 0)
        if tiles(flow) <= MAX_TILES:
            break
    return flow


def tiles(flow: Flow) -> int:
    return sum(sum(map(tiles, part.lanes)) if isinstance(part, Branches) else 1 for part in flow)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    worst: Mapping[Node, str]
    """Of a node and all that it leads to."""
    size: Mapping[Node, int]
    on_the_way: frozenset[Node]
    """What leads to the present run."""


def _survey(roots: Sequence[Node], here: str) -> _Known:
    worst: dict[Node, str] = {}
    size: dict[Node, int] = {}
    on_the_way: set[Node] = set()
    for node in reversed(_walk(roots)):
        record = node.record
        found = [worst[below] for below in node.next]
        if record is not None:
            found.append(status_of(record))
        worst[node] = max(found, key=lambda status: SEVERITY.get(status, 0), default=TaskState.SUCCESS.value)
        size[node] = (record is not None) + sum(size[below] for below in node.next)
        if (record is not None and record.task_id == here) or any(below in on_the_way for below in node.next):
            on_the_way.add(node)
    return _Known(worst=worst, size=size, on_the_way=frozenset(on_the_way))


def _walk(roots: Sequence[Node]) -> list[Node]:
    """All nodes, each before what it leads to."""
    found = list(roots)
    for node in found:
        found.extend(node.next)
    return found


class _Folding:
    def __init__(self, known: _Known, here: str, measure: Measure, start: Node) -> None:
        self.known, self.here, self.measure, self.start = known, here, measure, start

    def flow(self, start: Node, depth: int) -> Flow:
        parts: list[Part] = []
        nodes: list[Node] = [start]
        while len(nodes) == 1:
            node = nodes[0]
            if node.record is not None:
                parts.append(Step(record=node.record, is_here=node.record.task_id == self.here))
            elif any(self.known.size[branch] for branch in node.branches):
                parts.append(self._branches(node, node.branches, depth))
            nodes = node.after
        if any(self.known.size[branch] for branch in nodes):
            parts.append(self._branches(start if node is start else Node(), nodes, depth))
        return self._shortened(parts)

    def _branches(self, group: Node, known: Sequence[Node], depth: int) -> Branches:
        branches = [branch for branch in known if self.known.size[branch]]
        return Branches(
            lanes=self._lanes(group, branches, depth),
            size=len(branches),
            is_group=bool(group.branches),
            is_chord=bool(group.branches and group.after),
            is_apart=group is self.start and group.record is None and not group.branches,
            group_id=group.group_id,
        )

    def _lanes(self, group: Node, branches: Sequence[Node], depth: int) -> tuple[Flow, ...]:
        if depth >= self.measure.depth:
            return self._too_deep(group, branches)
        shown = self._chosen(branches)
        rest = self._by_worst(branch for branch in branches if branch not in shown)
        shown |= {alone[0] for alone in rest.values() if len(alone) == 1 and self.known.size[alone[0]] == 1}
        lanes = [self.flow(branch, depth + 1) for branch in branches if branch in shown]
        return (*lanes, *self._folded(group, (branch for branch in branches if branch not in shown)))

    def _too_deep(self, group: Node, branches: Sequence[Node]) -> tuple[Flow, ...]:
        """Only counted, but for the present run and how many others are around it."""
        on_the_way = [branch for branch in branches if branch in self.known.on_the_way]
        lanes = [self._around_here(branch) for branch in on_the_way]
        return (*lanes, *self._folded(group, (branch for branch in branches if branch not in on_the_way)))

    def _around_here(self, branch: Node) -> Flow:
        records = [node.record for node in _walk([branch]) if node.record is not None]
        around = Counter(status_of(record) for record in records if record.task_id != self.here)
        here = [Step(record=record, is_here=True) for record in records if record.task_id == self.here]
        return (*_gap(around), *here)

    def _folded(self, group: Node, branches: Iterable[Node]) -> Iterator[Flow]:
        by_worst = self._by_worst(branches)
        for status, number in counted({status: len(nodes) for status, nodes in by_worst.items()}):
            lone = all(self.known.size[node] == 1 for node in by_worst[status])
            yield (Folded(counts=((status, number),), group_id=group.group_id if lone else ""),)

    def _by_worst(self, branches: Iterable[Node]) -> Mapping[str, Sequence[Node]]:
        found: dict[str, list[Node]] = defaultdict(list)
        for branch in branches:
            found[self.known.worst[branch]].append(branch)
        return found

    def _chosen(self, branches: Sequence[Node]) -> set[Node]:
        if len(branches) <= self.measure.lanes:
            return set(branches)
        failed = [branch for branch in branches if self.known.worst[branch] in TROUBLE]
        return {*failed[: self.measure.named], *(branch for branch in branches if branch in self.known.on_the_way)}

    def _shortened(self, parts: Sequence[Part]) -> Flow:
        """A long row by its ends, what is here, and the first of those that failed."""
        if len(parts) <= self.measure.steps:
            return tuple(parts)
        ends = self.measure.steps // 4
        failed = [number for number, part in enumerate(parts) if _is_trouble(part)][: self.measure.named]
        kept = {*range(ends), *range(len(parts) - ends, len(parts)), *failed}
        kept |= {number for number, part in enumerate(parts) if isinstance(part, Step) and part.is_here}
        flow: list[Part] = []
        gap: Counter[str] = Counter()
        for number, part in enumerate(parts):
            if number not in kept and not self._leads_here(part):
                _count(part, gap)
                continue
            flow += _gap(gap)
            gap = Counter()
            flow.append(part)
        return tuple(flow)

    def _leads_here(self, part: Part) -> bool:
        return isinstance(part, Branches) and any(
            self._leads_here(inner) or (isinstance(inner, Step) and inner.is_here)
            for lane in part.lanes
            for inner in lane
        )


def _is_trouble(part: Part) -> bool:
    return isinstance(part, Step) and status_of(part.record) in TROUBLE


def _count(part: Part, counter: Counter[str]) -> None:
    """What is folded in a row is told by what its branches were told by."""
    if isinstance(part, Step):
        counter[status_of(part.record)] += 1
    elif isinstance(part, Folded):
        counter.update(dict(part.counts))
    else:
        for lane in part.lanes:
            for inner in lane:
                _count(inner, counter)


def _gap(counter: Counter[str]) -> list[Part]:
    return [Folded(counts=counted(counter), in_sequence=True)] if counter else []
