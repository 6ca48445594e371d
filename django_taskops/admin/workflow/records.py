"""What rows say of a workflow, and what is made of them. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from ...states import QuietReason


class Record(NamedTuple):
    """What the picture reads of a run."""

    pk: int
    task_id: str
    task_name: str
    state: str
    reason: str
    exception_type: str
    parent_id: str
    root_id: str
    group_id: str
    group_index: int | None
    enqueued_at: datetime | None
    seen: int

    @property
    def never_ran(self) -> bool:
        return self.reason == QuietReason.UPSTREAM_FAILED


@dataclass(slots=True, eq=False)
class Node:
    """A run, or, without a record, a group of them. `after` is what comes next: for a run its children, for a group
    the body of its chord. `branches` are the first nodes of a group's members, side by side."""

    record: Record | None = None
    group_id: str = ""
    parent: "Node | None" = None
    after: list["Node"] = field(default_factory=list)
    branches: list["Node"] = field(default_factory=list)

    @property
    def next(self) -> Iterator["Node"]:
        yield from self.branches
        yield from self.after


def known(node: Node) -> Record:
    """The record of a node that is a run."""
    assert node.record is not None
    return node.record


class Ties:
    """What ties the runs of a workflow together. Nodes of runs come in the order of their indexes and of their publish.

    `before` is the run that stands before one. `joins` are what follows a group, and that group.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.runs = {record.task_id: Node(record=record) for record in sorted(records, key=_order)}
        self.before: dict[Node, Node | None] = {}
        self.member_of: dict[Node, Node] = {}
        self.members: dict[Node, list[Node]] = {}
        self.joins: dict[Node, Node] = {}
        self._groups: dict[str, Node] = {}
        self._followed: set[Node] = set()
        for node in self.runs.values():
            self._place(node, known(node))

    def _place(self, node: Node, record: Record) -> None:
        before = self.runs.get(record.parent_id)
        if before is node:  # a retried or replaced task is its own parent
            before = self.runs.get(record.root_id)
        self.before[node] = None if before is node else before
        if record.group_id and record.group_index is not None:
            self.add_member(node, record.group_id, record.group_id)

    def add_member(self, node: Node, key: str, group_id: str) -> None:
        """`group_id` is "" for a group that never ran, `key` names it all the same."""
        group = self._groups.setdefault(key, Node(group_id=group_id))
        self.member_of[node] = group
        self.members.setdefault(group, []).append(node)

    def group(self, group_id: str) -> Node | None:
        return self._groups.get(group_id) if group_id else None

    def join(self, node: Node, group: Node) -> None:
        """`node` follows `group`."""
        self.joins.setdefault(node, group)
        self._followed.add(self.joins[node])

    def is_followed(self, group: Node) -> bool:
        return group in self._followed


def _order(record: Record) -> tuple[bool, int, bool, float, int, int]:
    sent, index = record.enqueued_at, record.group_index
    return (index is None, index or 0, sent is None, sent.timestamp() if sent else 0.0, record.seen, record.pk)


def cut_circles(above: dict[Node, Node | None]) -> None:
    """Where going upwards would lead in a circle, it ends."""
    done: set[Node] = set()
    for start in list(above):
        way: set[Node] = set()
        node: Node | None = start
        while node is not None and node not in done:
            way.add(node)
            if above.get(node) in way:
                above[node] = None
            node = above.get(node)
        done |= way


def in_order_of_the_canvas(nodes: Iterable[Node]) -> Sequence[Node]:
    """Of what never ran: all of it was told at once, step by step."""
    return sorted(nodes, key=lambda node: (known(node).seen, known(node).pk))
