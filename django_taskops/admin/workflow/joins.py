"""What follows a group: the body of a chord. Pure."""

from .records import Node, Ties, known


class Joins:
    """Finds them in two ways, and tells `ties`."""

    def __init__(self, ties: Ties) -> None:
        self.ties = ties
        self.forks: dict[Node, Node | None] = {}

    def find(self) -> None:
        nodes = list(self.ties.runs.values())
        for node in nodes:
            self._by_label(node)
        for node in nodes:
            self._nested(node)

    def _by_label(self, node: Node) -> None:
        """Upwards from the run that bears the id of a group and no index. What hangs on the way on a member of another
        group is what follows that."""
        record = known(node)
        group = self.ties.group(record.group_id) if record.group_index is None else None
        if group is None:
            return
        path = [node]
        while (before := self.ties.before[path[-1]]) is not None and self.ties.member_of.get(before) is not group:
            path.append(before)
        if before is None:
            self._join(node, group)
            return
        for step in path:
            above = self.ties.before[step]
            if above is not None and (followed := self.ties.member_of.get(above)) is not None:
                self._join(step, followed)

    def _nested(self, node: Node) -> None:
        """The body of a chord that is a member of another group: it alone of them is a child of that chord's member."""
        before, own = self.ties.before[node], self.ties.member_of.get(node)
        followed = self.ties.member_of.get(before) if before is not None else None
        if followed is None or own is None or own is followed or self.ties.is_followed(followed):
            return
        if len(self.ties.members[own]) == 1 or self._fork(own) is None:
            self._join(node, followed)

    def _join(self, node: Node, group: Node) -> None:
        own = self.ties.member_of.get(node)
        if own is group or node in self.ties.joins:
            return
        if own is not None and len(self.ties.members[own]) > 1 and self._fork(own) is not None:
            node = own  # a whole group follows
        self.ties.join(node, group)

    def _fork(self, group: Node) -> Node | None:
        """The run that all members of `group` are children of, None where there is no such run."""
        if group not in self.forks:
            befores = {self.ties.before[member] for member in self.ties.members[group]}
            self.forks[group] = befores.pop() if len(befores) == 1 else None
        return self.forks[group]
