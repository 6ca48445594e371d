"""Where a group begins: what stands before all of its members, and with which run each of its branches begins. Pure."""

from collections.abc import Sequence

from .records import Node, Ties, known

MAX_NESTING = 50  # of groups; what claims to be nested deeper stands by itself


class Forks:
    """Of all groups of `ties`, once `find` was called. `places` says where a branch stands among the others."""

    def __init__(self, ties: Ties) -> None:
        self.ties = ties
        self.places: dict[Node, int] = {}
        self._above: dict[Node, Node | None] = {}  # of groups
        self._heads: dict[Node, Node] = {}  # the first run of a branch, and its group

    def find(self) -> None:
        for group in list(self.ties.members):
            self._resolve(group, 0)

    def above(self, node: Node, depth: int = MAX_NESTING) -> Node | None:
        """What stands before `node`: for the first of a branch its group, for what follows a group that group."""
        if node.record is None:
            if depth < MAX_NESTING:
                self._resolve(node, depth + 1)
            return self._above.get(node)
        return self._heads.get(node) or self.ties.joins.get(node) or self.ties.before[node]

    def _resolve(self, group: Node, depth: int) -> None:
        if group in self._above:
            return
        self._above[group] = None  # for what leads back to itself
        members = self.ties.members[group]
        fork = self._common(members, group, depth)
        self._above[group] = self.ties.joins.get(group, fork)
        for member in members:
            self._find_head(member, fork, group, depth)

    def _common(self, members: Sequence[Node], group: Node, depth: int) -> Node | None:
        """The nearest node that stands before all of them."""
        common = members[0]
        for member in members[1:]:
            met = self._meet(common, member, depth)
            if met is None or met is group:
                return None
            common = met
        return self.above(common, depth) if self.ties.member_of.get(common) is group else common

    def _meet(self, one: Node, other: Node, depth: int) -> Node | None:
        """Where two ways upwards meet. They are walked in turns, so that it costs no more than the nearest."""
        if one is other:
            return one
        seen: tuple[set[Node], set[Node]] = ({one}, {other})
        ends: list[Node | None] = [one, other]
        while any(ends):
            for side in (0, 1):
                end = ends[side]
                end = self.above(end, depth) if end is not None else None
                if end is not None and end in seen[1 - side]:
                    return end
                ends[side] = None if end in seen[side] else end
                if end is not None:
                    seen[side].add(end)
        return None

    def _find_head(self, member: Node, fork: Node | None, group: Node, depth: int) -> None:
        node, seen = member, {member}
        while True:
            above = self.above(node, depth)
            if above is group or node is group:
                return
            if above is fork or above is None or above in seen:
                break
            seen.add(above)
            node = above
        index = known(member).group_index or 0
        self.places[node] = min(index, self.places.get(node, index))
        if node.record is None:
            self._above[node] = group
        else:
            self._heads[node] = group
