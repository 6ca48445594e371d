"""How the runs of a workflow hang together, told from what their rows say. Pure.

A row knows its parent and its group, not its canvas. What measuring with real workers has shown of them, and is read
here: the next step of a chain is a child of the one before. The body of a chord is a child of the member that ended
last, and bears the id of the group without an index; where more follows, the last task bears it. Where the chord is
itself a member of another group, its body bears that group instead. What never ran hangs on the run that failed, all
of it, in the order in which it would have run; where it was to be a group, it has indexes and no group id.

Celery names that group from 5.7 on only; before, `rows.py` gives its id to the record of the body.
"""

from collections.abc import Iterable

from .forks import Forks
from .joins import Joins
from .records import Node, Record, Ties, cut_circles
from .upstream import queue_up


def link(records: Iterable[Record]) -> list[Node]:
    """The nodes that nothing stands before. Each record is in what they lead to exactly once, whatever it says."""
    ties = Ties(records)
    queue_up(ties)
    cut_circles(ties.before)
    Joins(ties).find()
    forks = Forks(ties)
    forks.find()
    return _hang(ties, forks)


def _hang(ties: Ties, forks: Forks) -> list[Node]:
    nodes = [*ties.runs.values(), *ties.members]
    above = {node: forks.above(node) for node in nodes}
    cut_circles(above)
    for node in nodes:
        node.parent = parent = above[node]
        if parent is not None:
            follows = parent.record is not None or ties.joins.get(node) is parent
            (parent.after if follows else parent.branches).append(node)
    for group in ties.members:
        group.branches.sort(key=lambda branch: forks.places.get(branch, 0))
    return [node for node in nodes if node.parent is None]
