"""The order of what never ran: all of it hangs on the run that failed. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from .records import Node, Ties, in_order_of_the_canvas, known


def queue_up(ties: Ties) -> None:
    """One after the other and side by side, as it would have run."""
    for cause, waiting in _never_ran(ties).items():
        _queue_up(ties, cause, in_order_of_the_canvas(waiting))


def _never_ran(ties: Ties) -> Mapping[Node, Sequence[Node]]:
    """By the run that has failed."""
    found: dict[Node, list[Node]] = defaultdict(list)
    for node in ties.runs.values():
        record = known(node)
        cause = ties.runs.get(record.parent_id)
        if record.never_ran and cause is not None and not known(cause).never_ran:
            found[cause].append(node)
    return found


def _queue_up(ties: Ties, cause: Node, waiting: Sequence[Node]) -> None:
    """`last` is what the next one comes after, a run or a whole group."""
    last, position = ties.member_of.get(cause, cause), 0
    while position < len(waiting):
        end = _end_of_block(waiting, position)
        if end > position:
            last = _side_by_side(ties, last, waiting[position:end], f"{known(cause).task_id}\n{position}")
        else:
            node = waiting[position]
            ties.before[node] = _run_of(ties, last)
            if last.record is None:
                ties.join(node, last)
            last, end = node, position + 1
        position = end


def _run_of(ties: Ties, last: Node) -> Node:
    return last if last.record is not None else ties.members[last][-1]


def _end_of_block(waiting: Sequence[Node], position: int) -> int:
    """Past the members of the group that begins there, `position` itself where none does. What has no index and stands
    between two members is an earlier step of the second one."""
    first = known(waiting[position])
    if first.group_index is None:
        return position
    end, index = position + 1, first.group_index
    for number in range(position + 1, len(waiting)):
        record = known(waiting[number])
        if record.group_index is None:
            continue
        if (record.group_id, record.group_index) != (first.group_id, index + 1):
            break
        end, index = number + 1, index + 1
    return end


def _side_by_side(ties: Ties, last: Node, block: Sequence[Node], key: str) -> Node:
    """The members of a group, each a chain that ends with the one that has an index. Returns the group."""
    before = _run_of(ties, last)
    previous, heads = before, []
    for node in block:
        ties.before[node] = previous
        heads += [node] if previous is before else []
        previous = node
        if known(node).group_index is not None:
            if node not in ties.member_of:
                ties.add_member(node, key, "")
            previous = before
    group = ties.member_of[block[-1]]
    if last.record is None and group is not last:
        is_all = len(ties.members[group]) == len(heads)
        ties.join(group if is_all else heads[0], last)
    return group
